// One sound at a time, and where it is.

/** Plays sounds of this page; whoever asks is told where each is. */
export class Player {
  constructor() {
    this.audio = new Audio();
    this.audio.preload = "none";
    this.follow = null;
    for (const what of ["play", "pause", "ended"]) this.audio.addEventListener(what, () => this.tell());
  }

  /** Play a sound, or stop it where it plays; `follow` gets seconds, and null at its end. */
  async toggle(source, follow) {
    const isSame = this.audio.src.endsWith(source) && !this.audio.paused;
    this.stop();
    if (isSame) return;
    this.follow = follow;
    this.audio.src = source;
    await this.audio.play();
  }

  stop() {
    this.audio.pause();
    this.follow?.(null);
    this.follow = null;
  }

  tell() {
    const { paused, currentTime } = this.audio;
    this.follow?.(paused ? null : currentTime);
    if (!paused) requestAnimationFrame(() => this.tell());
  }
}
