/**
 * A session between two daemons: a main stream both ways, and a memory stream one way. Order holds within a
 * stream and direction, not between them. When a session breaks, what is on its way may still arrive up to some
 * moment, the rest is lost, and each side finds out in its own time.
 */
import type { Process } from "./process.ts";

export type StreamName = "main" | "memory";

export type NetworkFaults = {
  /** Of a thousand messages, how many break their session. */
  breakingPerMille: () => number;
  latencyMsMax: number;
  /** How much later a message of the memory stream may come: it has a connection of its own. */
  memoryDelayMsMax: number;
  /** How long a side may take to find out. */
  noticeMsMax: number;
  /** Added to a message's latency now: a stalled link. */
  stallMs: () => number;
};

/** One side of a session. Nothing arrives at it, and nothing leaves, once it was told of the loss. */
export class SessionEnd<Out, In> {
  readonly #process: Process;
  readonly #faults: NetworkFaults;
  #peer: SessionEnd<In, Out> | undefined;
  #isOpen = true;
  /** What is sent from now on is lost. */
  #isBroken = false;
  /** What arrives from now on is lost. */
  #isCut = false;
  /** A stream delivers in order, however long each message takes. */
  readonly #lastArrivalMs: Record<StreamName, number> = { main: 0, memory: 0 };
  onMessage: (message: In, stream: StreamName) => void = () => {};
  onLost: () => void = () => {};

  private constructor(process: Process, faults: NetworkFaults) {
    this.#process = process;
    this.#faults = faults;
  }

  static pair<A, B>(
    near: Process,
    far: Process,
    faults: NetworkFaults,
  ): [SessionEnd<A, B>, SessionEnd<B, A>] {
    const one = new SessionEnd<A, B>(near, faults);
    const other = new SessionEnd<B, A>(far, faults);
    one.#peer = other;
    other.#peer = one;
    return [one, other];
  }

  get isOpen(): boolean {
    return this.#isOpen && this.#process.alive;
  }

  /** Whether both daemons live. */
  get isBetweenLiving(): boolean {
    return this.#process.alive && this.#peer!.#process.alive;
  }

  send(message: Out, stream: StreamName = "main"): void {
    if (!this.isOpen || this.#isBroken) return;
    const { clock, prng } = this.#process;
    if (prng.perMille(this.#faults.breakingPerMille())) {
      this.break();
      return;
    }
    const { latencyMsMax, memoryDelayMsMax, stallMs } = this.#faults;
    const isSlow = stream === "memory" && memoryDelayMsMax > 0;
    const delayMs = isSlow ? prng.between(0, memoryDelayMsMax) : 0;
    const wanted = clock.now + prng.between(1, latencyMsMax) + delayMs + stallMs();
    const at = Math.max(this.#lastArrivalMs[stream], wanted);
    this.#lastArrivalMs[stream] = at;
    const peer = this.#peer!;
    peer.#process.after(at - clock.now, () => {
      if (peer.#isOpen && !peer.#isCut) peer.onMessage(message, stream);
    });
  }

  /** The connection is gone: neither direction delivers for long, and both sides will hear of it. */
  break(): void {
    this.#breakHere();
    this.#peer!.#breakHere();
  }

  /** This side gives the session up, now. */
  end(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#peer!.#breakHere();
    this.onLost();
  }

  #breakHere(): void {
    this.#isBroken = true;
    const { prng } = this.#process;
    const cutMs = prng.pick([0, 0, prng.between(0, this.#faults.latencyMsMax)]);
    this.#process.after(cutMs, () => {
      this.#isCut = true;
    });
    this.#process.after(cutMs + prng.between(0, this.#faults.noticeMsMax), () => this.end());
  }
}
