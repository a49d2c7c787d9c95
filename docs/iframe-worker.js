// Search runs in a Worker, which browsers refuse to pages that were opened from a folder instead of
// a server. There a hidden frame takes the place of the Worker.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inner = this.frame.contentWindow;
      inner.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        this.onmessage?.(event);
      };
      inner.importScripts = (...urls) =>
        urls.reduce((before, each) => before.then(() => loadScript(inner, each)), Promise.resolve());
      this.ready = loadScript(inner, url);
    }

    postMessage(data) {
      const event = new MessageEvent("message", { data: structuredClone(data) });
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(event));
    }

    terminate() {
      this.frame.remove();
    }
  };
}

function loadScript(inner, url) {
  return new Promise((done, fail) => {
    const script = inner.document.createElement("script");
    Object.assign(script, { src: url, onload: done, onerror: fail });
    inner.document.body.append(script);
  });
}
