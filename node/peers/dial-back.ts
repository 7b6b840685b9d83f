/**
 * Hosts that nobody can dial: this host has one of them asked to dial, and dials when it is asked to.
 *
 *   asker ──dial-back from X to asker──▶ X                          a connection is there, and bulk bytes need another
 *   asker ──dial-back from X to asker──▶ a member ──the same──▶ X   there is none
 *
 * Whom to dial is all that a request says: the addresses are those that this host knows of that member, so that nobody
 * can have it dial somewhere else. A request is passed on once, and only for whoever makes it.
 */

import { HOSTS_PROTOCOL } from "../../protocol/limits.ts";
import { NodeError } from "../errors.ts";
import type { Links, Summon } from "../membership/links.ts";
import type { DialBack, HostAnswers } from "./host-questions.ts";
import type { Peers } from "./peers.ts";

export type DialBackParts = {
  self: string;
  peers: Pick<Peers, "askToDial" | "dataAddressOf" | "nameOf">;
  links: Links;
  /** Hosts that are alive. */
  active(): readonly string[];
  /** Dials on the bulk network. */
  dialBulk(address: string, nonce: string): Promise<void>;
};

/** Asked one after the other who has a connection with the host. */
const RELAYS_MAX = 4;
const ASK_TIMEOUT_MS = 10_000;
const PING_TIMEOUT_MS = 1_000;
/** Dials for one host that run at a time: a migration has two connections. */
const DIALS_PER_HOST_MAX = 4;

export class HostDialBack {
  readonly #parts: DialBackParts;
  readonly #running = new Map<string, number>();

  constructor(parts: DialBackParts) {
    this.#parts = parts;
  }

  /** For the control connection: nobody here has one with `host`, so a third is asked. */
  readonly summon: Summon = async (host, signal) => {
    const { self, peers, links, active } = this.#parts;
    const relays = active().filter((each) => each !== host && links.addressesOf(each).length > 0);
    const some = relays.sort(() => Math.random() - 0.5).slice(0, RELAYS_MAX);
    await peers.askToDial({ ask: "dial-back", from: host, to: self }, some, signal);
  };

  /** For the bulk network: `host` presents the nonce there. */
  async askForBulk(host: string, nonce: string): Promise<void> {
    const { self, peers } = this.#parts;
    const wish: DialBack = { ask: "dial-back", from: host, to: self, data: { nonce } };
    await peers.askToDial(wish, [host], AbortSignal.timeout(ASK_TIMEOUT_MS));
  }

  readonly answer: HostAnswers["dialBack"] = async (peer, wish) => {
    const { self, peers, links } = this.#parts;
    const { from, to } = wish;
    if (from !== self) {
      const isMeant = to === peer && wish.data === undefined;
      const isConnected = links.existing(from, HOSTS_PROTOCOL) !== undefined;
      if (!isMeant || !isConnected) throw new Error(`no connection with ${peers.nameOf(from)} here`);
      return peers.askToDial(wish, [from], AbortSignal.timeout(ASK_TIMEOUT_MS));
    }
    const running = this.#running.get(to) ?? 0;
    if (running >= DIALS_PER_HOST_MAX) throw new Error("it dials already");
    this.#running.set(to, running + 1);
    try {
      await (wish.data === undefined ? this.#dialControl(to) : this.#dialBulk(peer, wish.data.nonce));
    } finally {
      const rest = (this.#running.get(to) ?? 1) - 1;
      if (rest > 0) this.#running.set(to, rest);
      else this.#running.delete(to);
    }
  };

  async #dialControl(to: string): Promise<void> {
    const { links, peers } = this.#parts;
    if (links.addressesOf(to).length === 0) throw neither(peers.nameOf(to));
    // It says that there is none: perhaps it was restarted, and this end has not noticed.
    const existing = links.existing(to, HOSTS_PROTOCOL);
    await existing?.ping(AbortSignal.timeout(PING_TIMEOUT_MS)).catch(() => links.drop(to));
    await links.connect(to, HOSTS_PROTOCOL);
  }

  async #dialBulk(to: string, nonce: string): Promise<void> {
    const { peers, dialBulk } = this.#parts;
    const address = await peers.dataAddressOf(to);
    if (address.startsWith("/p2p/")) throw neither(peers.nameOf(to));
    await dialBulk(address, nonce);
  }
}

function neither(host: string): NodeError {
  return new NodeError("PEER_UNREACHABLE", { host, reason: "neither of the two hosts announces an address" });
}
