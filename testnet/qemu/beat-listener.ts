/**
 * The other end of the guest's network: every host's QEMU connects its card to one socket of ours, and sends
 * frames with their length before them. The guest's beats say when it was last heard on one host and first on
 * another: what clients on the network would see of a migration.
 */

import { createServer, type Server, type Socket } from "node:net";

type Beat = { atMs: number; number: number; from: number };

/** See guest/workload.c. */
const BEAT_ETHERTYPE = 0x88b5;
/** Of QEMU's announcements (RARP): where switches learn it is from now on. */
const ANNOUNCE_ETHERTYPE = 0x8035;
const LENGTH_BYTES = 4;
const ETHERNET_HEAD_BYTES = 14;

export class BeatListener {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #beats: Beat[] = [];
  readonly #announcements: number[] = [];
  #connections = 0;

  private constructor() {
    this.#server = createServer((socket) => this.#accept(socket));
  }

  static async listen(path: string): Promise<BeatListener> {
    const listener = new BeatListener();
    await new Promise<void>((resolve, reject) => {
      listener.#server.once("error", reject);
      listener.#server.listen(path, resolve);
    });
    return listener;
  }

  /** The longest silence between two beats of `[sinceMs, untilMs]`, and the beats that were lost in all of it. */
  blackout(sinceMs: number, untilMs: number): { longestMs: number; beats: number; lost: number } {
    const beats = this.#beats.filter(({ atMs }) => atMs >= sinceMs && atMs <= untilMs);
    let longestMs = 0;
    let lost = 0;
    for (const [index, { atMs, number }] of beats.entries()) {
      const before = beats[index - 1];
      if (before === undefined) continue;
      longestMs = Math.max(longestMs, atMs - before.atMs);
      lost += Math.max(0, number - before.number - 1);
    }
    return { longestMs, beats: beats.length, lost };
  }

  announcements(sinceMs: number): number {
    return this.#announcements.filter((atMs) => atMs >= sinceMs).length;
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #accept(socket: Socket): void {
    const from = this.#connections++;
    this.#sockets.add(socket);
    socket.on("error", () => {});
    socket.once("close", () => this.#sockets.delete(socket));
    let rest = Buffer.alloc(0);
    socket.on("data", (chunk: Buffer) => {
      const atMs = performance.now();
      rest = Buffer.concat([rest, chunk]);
      while (rest.length >= LENGTH_BYTES) {
        const end = LENGTH_BYTES + rest.readUInt32BE(0);
        if (rest.length < end) break;
        this.#take(rest.subarray(LENGTH_BYTES, end), { atMs, from });
        rest = rest.subarray(end);
      }
    });
  }

  #take(frame: Buffer, { atMs, from }: { atMs: number; from: number }): void {
    if (frame.length < ETHERNET_HEAD_BYTES + 4) return;
    const type = frame.readUInt16BE(ETHERNET_HEAD_BYTES - 2);
    if (type === ANNOUNCE_ETHERTYPE) this.#announcements.push(atMs);
    if (type === BEAT_ETHERTYPE) {
      this.#beats.push({ atMs, number: frame.readUInt32BE(ETHERNET_HEAD_BYTES), from });
    }
  }
}
