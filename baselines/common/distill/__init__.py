"""Knowledge distillation: losses between answers, frozen teachers, schedules over epochs."""
