/**
 * What the two xls of a migration say to each other beside the stream:
 *
 *   receiver ─▶ sender   banner                         it takes a stream
 *   sender ─▶ receiver   the stream                     ends with the guest suspended
 *   receiver ─▶ sender   "domain received, …"           restored, vbds connected, paused as NAME--incoming
 *   sender ─▶ receiver   "domain is yours, …"           xl's own point of no return
 *   receiver ─▶ sender   report                         renamed and unpaused
 *
 * We let neither get as far as the last two. Once its stream is whole the sender has nothing left to do but to wait,
 * and to decide by itself, when its wait is cut short, that the guest goes on: it is ended there. Once the receiver
 * has said "received" all that is left of it is a rename and an unpause: it is ended there, too, and whoever owns the
 * domain by the journal does the two. So no xl is alive between the freeze and the resume, no lost connection and no
 * exit code can decide anything, and a restart of the daemon finds plain states: a suspended guest at the source, a
 * paused one at the destination.
 */

import { badStream } from "../errors.ts";

export const BANNER = "xl migration receiver ready, send binary domain data.\n";
export const RECEIVED = "domain received, ready to unpause\0";

/** Suffixes of xl for a domain that is being received, and for one that it believes gone. */
export const INCOMING_SUFFIX = "--incoming";
export const GONE_SUFFIX = "--migratedaway";

/** What the receiver says, octet by octet. */
export class ReceiverWords {
  #said = "";

  /** Whether it is ready for the stream. */
  get isReady(): boolean {
    return this.#said.length >= BANNER.length;
  }

  /** Whether the domain is there as a whole. */
  get hasReceived(): boolean {
    return this.#said.length === BANNER.length + RECEIVED.length;
  }

  /** Throws HYPERVISOR_BAD_STREAM for what no receiver says at this point. */
  push(bytes: Uint8Array): void {
    this.#said += Buffer.from(bytes).toString("latin1");
    if ((BANNER + RECEIVED).startsWith(this.#said)) return;
    const reason = `xl says ${JSON.stringify(this.#said.slice(-80))}`;
    throw badStream(reason);
  }
}
