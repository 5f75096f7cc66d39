"""Knowledge distillation: losses between answers and features, frozen teachers, schedules of a weight over epochs."""
