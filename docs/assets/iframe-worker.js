// Search runs in a worker, and browsers start no worker for a page that is opened from disk. Here is one that is a
// hidden frame: it has the page's origin, runs the same script, and passes messages on. Only what the theme's search
// uses is there: `postMessage` and `message` events in both directions.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      const inside = frame.contentWindow
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      this.send = (data) => inside.dispatchEvent(new inside.MessageEvent("message", { data }))
      const script = inside.document.createElement("script")
      this.ready = new Promise((resolve, reject) => {
        script.onload = resolve
        script.onerror = reject
      })
      script.src = new URL(url, location)
      inside.document.body.appendChild(script)
    }

    postMessage(data) {
      this.ready.then(() => this.send(data))
    }

    set onmessage(listener) {
      this.addEventListener("message", listener)
    }

    terminate() {}
  }
}
