// The one stream of the page. It rests while nobody looks, and comes back by itself.

const RETRY_MS = 1000;
const REST_MS = 3000;
const KINDS = ["daemon", "past", "event", "scores", "status", "refused", "missed"];

/** Calls `heard(kind, data)` for what the server sends, and `lost(why)` while it is away. */
export class Stream {
  constructor(heard, lost, ended) {
    this.heard = heard;
    this.lost = lost;
    this.ended = ended;
    this.source = null;
    this.timer = 0;
    this.isOver = false;
    document.addEventListener("visibilitychange", () => this.look());
    window.addEventListener("pageshow", () => this.look());
    this.open();
  }

  look() {
    if (this.isOver) return;
    clearTimeout(this.timer);
    if (!document.hidden) {
      if (!this.source) this.open();
    } else {
      this.timer = setTimeout(() => this.close(), REST_MS);
    }
  }

  /** End the stream; `look` opens another. */
  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  open() {
    this.close();
    const source = new EventSource("/api/live");
    this.source = source;
    for (const kind of KINDS)
      source.addEventListener(kind, (event) => this.heard(kind, JSON.parse(event.data)));
    source.addEventListener("ended", () => this.over());
    source.onopen = () => this.lost(null);
    source.onerror = () => this.failed(source);
  }

  async failed(source) {
    if (source !== this.source) return;
    this.close();
    try {
      const response = await fetch("/api/session", { method: "GET", cache: "no-store" });
      if (response.status === 401) return this.over();
    } catch {
      // it is away: tried again below
    }
    this.lost("The page's server is away. It is tried again every second.");
    this.timer = setTimeout(() => this.look(), RETRY_MS);
  }

  over() {
    this.isOver = true;
    this.close();
    this.ended();
  }
}
