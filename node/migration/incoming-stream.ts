/**
 * The memory stream on its way in: chunks in order into the hypervisor, and how far it has taken them. A
 * reconnect begins at `taken`; what was taken already is skipped, a gap is the peer's mistake.
 */

import { ProtocolError } from "../../protocol/errors.ts";
import type { IncomingMemory } from "../hypervisor/hypervisor.ts";
import type { Channel } from "../network/network.ts";
import { codec } from "./session.ts";

/** How often the source hears what it may forget: a fraction of what it retains. Also whenever nothing follows. */
const REPORT_EVERY_BYTES = 1 << 20;

export class IncomingStream {
  readonly attempt: number;
  readonly memory: IncomingMemory;
  taken = 0;
  #reported = 0;
  #isWaiting = false;
  #turn: Promise<void> = Promise.resolve();
  readonly #onTaken: (offset: number) => void;

  constructor(
    { attempt, memory }: { attempt: number; memory: IncomingMemory },
    hooks: { onTaken: (offset: number) => void; onLost?: () => void },
  ) {
    this.attempt = attempt;
    this.memory = memory;
    this.#onTaken = hooks.onTaken;
    memory.onLoss?.(() => hooks.onLost?.());
  }

  /** Reads until the channel ends; rejects when it is cut or when the peer sends nonsense. */
  async read(frames: AsyncIterable<Uint8Array>): Promise<void> {
    const decoder = codec.decodeSource();
    for await (const frame of frames) {
      const message = decoder.decode(frame);
      if (message === undefined) continue;
      if (message.type !== "memory") {
        throw new ProtocolError({
          code: "PROTOCOL_UNEXPECTED_MESSAGE",
          phase: "memory stream",
          message: message.type,
        });
      }
      // Channels of two sessions may overlap for a moment: one chunk at a time, whoever brought it.
      const turn = this.#turn.then(() => this.#take(message.offset, message.data));
      this.#turn = turn.catch(() => undefined);
      await turn;
    }
  }

  async #take(offset: number, data: Uint8Array): Promise<void> {
    if (offset > this.taken) {
      const reason = `expected ${this.taken}, got ${offset}`;
      throw new ProtocolError({ code: "PROTOCOL_BAD_FIELD", field: "memory.offset", reason });
    }
    const known = this.taken - offset;
    if (known >= data.length) return;
    await this.memory.write(known === 0 ? data : data.subarray(known));
    this.taken = offset + data.length;
    if (this.taken - this.#reported >= REPORT_EVERY_BYTES) this.report();
    else if (!this.#isWaiting) this.#reportWhenIdle();
  }

  /** Nothing more came in a turn of the event loop: a source that waits until little is on its way hears of it. */
  #reportWhenIdle(): void {
    this.#isWaiting = true;
    const { taken } = this;
    setImmediate(() => {
      this.#isWaiting = false;
      if (this.taken === taken) this.report();
      else this.#reportWhenIdle();
    });
  }

  report(): void {
    if (this.#reported === this.taken) return;
    this.#reported = this.taken;
    this.#onTaken(this.taken);
  }
}

/** The first message of a memory channel. */
export async function readMemoryOpen(
  channel: Channel,
): Promise<{ migration: string; attempt: number; offset: number; rest: AsyncGenerator<Uint8Array> }> {
  const rest = channel.frames();
  const decoder = codec.decodeSource();
  for (let next = await rest.next(); !next.done; next = await rest.next()) {
    const message = decoder.decode(next.value);
    if (message === undefined) continue;
    if (message.type === "memory-open") return { ...message, rest };
    throw new ProtocolError({
      code: "PROTOCOL_UNEXPECTED_MESSAGE",
      phase: "memory stream",
      message: message.type,
    });
  }
  throw new ProtocolError({ code: "PROTOCOL_FRAME_TRUNCATED", sizeBytes: 0, neededBytes: 1 });
}
