// Browsers start no workers from file://. There the search runs in a hidden frame instead, which is a worker's global scope to its script.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #queue = [];
    #scope = null;

    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.setAttribute("aria-hidden", "true");
      document.body.append(frame);
      const scope = frame.contentWindow;
      scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = scope.document.createElement("script");
      script.src = url;
      script.addEventListener("load", () => {
        this.#scope = scope;
        this.#queue.splice(0).forEach((data) => this.postMessage(data));
      });
      scope.document.head.append(script);
    }

    postMessage(data) {
      if (this.#scope) this.#scope.dispatchEvent(new this.#scope.MessageEvent("message", { data }));
      else this.#queue.push(data);
    }
  };
}
