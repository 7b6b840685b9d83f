/**
 * A cluster of membership machines in virtual time, all of it from one seed.
 *
 * What can go wrong: messages take their time, get lost (as datagrams do) or late and hold up those behind them (as
 * streams do); links are cut one-sidedly or both ways, in any shape; hosts are slow, crash, come back with nothing
 * but what they had stored, or leave. Timers of a slow host run on time: it judges others by answers that it has not
 * read yet, which is the anomaly of the Lifeguard paper.
 *
 * Signatures are not computed: `hostile.test.ts` has those. Everything else is the real machine.
 */

import type { MembershipConfig } from "../../../protocol/membership/config.ts";
import {
  initial,
  type MembershipContext,
  type MembershipEffect,
  type MembershipEvent,
  type MembershipState,
  type MembershipTimer,
  members,
  step,
} from "../../../protocol/membership/membership.ts";
import type { HostId, MembershipMessage, Update } from "../../../protocol/membership/messages.ts";
import { encodeMessage, encodeUpdate } from "../../../protocol/membership/wire.ts";
import { Prng } from "../prng.ts";
import { Calendar } from "./calendar.ts";

/** `datagrams` that are lost stay lost; `streams` send again after 200 ms and more, in order. */
export type LossModel = "datagrams" | "streams";

export type NetworkOptions = {
  /** One way: between the two, and in one of a hundred messages ten times as long. */
  readonly latencyMs: { readonly min: number; readonly max: number };
  /** Probability, 0 to 1. */
  readonly loss: number;
  readonly model: LossModel;
};

export const LAN_NETWORK: NetworkOptions = { latencyMs: { min: 0.25, max: 1 }, loss: 0, model: "datagrams" };

const RETRANSMISSION_MS = 200;

export type SimulatedHost = {
  readonly index: number;
  readonly id: HostId;
  state: MembershipState;
  readonly context: { -readonly [Key in keyof MembershipContext]: MembershipContext[Key] };
  up: boolean;
  /** Counts lives: what was on its way to a former one is not for this one. */
  life: number;
  /** By name, which setting is the last. */
  timers: Map<MembershipTimer, number>;
  /** Messages in and out wait until then. */
  slowUntilMs: number;
};

type Happening =
  | { kind: "timer"; host: SimulatedHost; timer: MembershipTimer; setting: number; life: number }
  | { kind: "message"; from: SimulatedHost; to: SimulatedHost; life: number; message: MembershipMessage }
  | { kind: "call"; act: () => void };

export type Observer = (host: SimulatedHost, effect: MembershipEffect) => void;

export class SimulatedCluster {
  readonly hosts: readonly SimulatedHost[];
  readonly prng: Prng;
  network: NetworkOptions;
  /** Whether messages pass from one to the other. */
  passes: (from: SimulatedHost, to: SimulatedHost) => boolean = () => true;
  observe: Observer = () => {};
  messages = 0;
  bytes = 0;
  readonly #calendar = new Calendar<Happening>();
  readonly #byId = new Map<HostId, SimulatedHost>();
  readonly #config: MembershipConfig;
  readonly #streamFreeMs = new Map<number, number>();
  #settings = 0;

  constructor(options: { hosts: number; seed: number; config: MembershipConfig; network?: NetworkOptions }) {
    this.prng = new Prng(options.seed);
    this.#config = options.config;
    this.network = options.network ?? LAN_NETWORK;
    this.hosts = Array.from({ length: options.hosts }, (_, index) => this.#host(index));
    for (const host of this.hosts) this.#byId.set(host.id, host);
  }

  get nowMs(): number {
    return this.#calendar.nowMs;
  }

  /** All hosts run and know one another. */
  startTogether(): void {
    for (const host of this.hosts) this.start(host, []);
    const all = this.hosts.map(({ state }) => state.own!);
    for (const host of this.hosts) this.step(host, { type: "restore", updates: all });
    // Nobody has to be told of the others: this is a cluster at rest.
    for (const host of this.hosts) for (const { record } of all) host.state.queue.delete(record.host);
  }

  /** Begins a life of a host, with what it had stored. */
  start(host: SimulatedHost, stored: readonly Update[]): void {
    host.up = true;
    host.life += 1;
    host.timers = new Map();
    host.state = initial({ self: host.id, config: this.#config });
    const incarnation = Math.floor(this.nowMs) + host.life;
    this.step(host, { type: "start", incarnation, description: describe(host, 0) });
    if (stored.length > 0) this.step(host, { type: "restore", updates: stored });
  }

  /** Ends it without a word. */
  crash(host: SimulatedHost): Update[] {
    host.up = false;
    host.life += 1;
    return members(host.state);
  }

  announce(host: SimulatedHost, domainCount: number): void {
    this.step(host, { type: "announce", description: describe(host, domainCount) });
  }

  step(host: SimulatedHost, event: MembershipEvent): void {
    host.context.nowMs = this.nowMs;
    const [state, effects] = step(host.state, event, host.context);
    host.state = state;
    for (const effect of effects) this.#perform(host, effect);
  }

  after(delayMs: number, act: () => void): void {
    this.#calendar.after(delayMs, { kind: "call", act });
  }

  run(durationMs: number, isDone?: () => boolean): void {
    this.#calendar.run(durationMs, (happening) => this.#happen(happening), isDone);
  }

  /** Hosts that are up and believe all others that are up, and nobody else, alive. */
  agreeing(): number {
    const up = this.hosts.filter((host) => host.up);
    return up.filter(({ state }) => {
      const alive = state.table.active;
      return (
        alive.length === up.length - 1 &&
        alive.every(({ host, update }) => update.status === "alive" && this.#byId.get(host)!.up)
      );
    }).length;
  }

  isUp(id: HostId): boolean {
    return this.#byId.get(id)!.up;
  }

  byId(id: HostId): SimulatedHost {
    return this.#byId.get(id)!;
  }

  #host(index: number): SimulatedHost {
    const id = `12D3KooWsimulated-host-with-a-libp2p-peer-id-${String(index).padStart(8, "0")}`;
    const { prng } = this;
    const context = {
      config: this.#config,
      nowMs: 0,
      random: () => prng.u32() / 2 ** 32,
      sign: imprint,
      verify: () => true,
    };
    const state = initial({ self: id, config: this.#config });
    return { index, id, state, context, up: false, life: 0, timers: new Map(), slowUntilMs: 0 };
  }

  #perform(host: SimulatedHost, effect: MembershipEffect): void {
    switch (effect.type) {
      case "send":
        this.#send(host, effect.to, effect.message);
        break;
      case "set-timer": {
        const { timer } = effect;
        const setting = ++this.#settings;
        host.timers.set(timer, setting);
        this.#calendar.after(effect.afterMs, { kind: "timer", host, timer, setting, life: host.life });
        break;
      }
      default:
        this.observe(host, effect);
    }
  }

  #send(from: SimulatedHost, id: HostId, message: MembershipMessage): void {
    const to = this.#byId.get(id)!;
    this.messages += 1;
    this.bytes += sizeOf(message);
    if (!this.passes(from, to)) return;
    const delayMs = this.#delayMs(from, to);
    if (delayMs === undefined) return;
    const heldMs = Math.max(0, from.slowUntilMs - this.nowMs);
    this.#calendar.after(heldMs + delayMs, { kind: "message", from, to, life: to.life, message });
  }

  /** Undefined when the message is lost. */
  #delayMs(from: SimulatedHost, to: SimulatedHost): number | undefined {
    const { latencyMs, loss, model } = this.network;
    const { prng } = this;
    const drawn = latencyMs.min + (prng.u32() / 2 ** 32) * (latencyMs.max - latencyMs.min);
    let delayMs = prng.perMille(10) ? 10 * drawn : drawn;
    if (loss === 0) return delayMs;
    const isLost = (): boolean => prng.u32() / 2 ** 32 < loss;
    if (model === "datagrams") return isLost() ? undefined : delayMs;
    for (let againMs = RETRANSMISSION_MS; isLost(); againMs *= 2) delayMs += againMs;
    const link = from.index * this.hosts.length + to.index;
    const atMs = Math.max(this.nowMs + delayMs, this.#streamFreeMs.get(link) ?? 0);
    this.#streamFreeMs.set(link, atMs);
    return atMs - this.nowMs;
  }

  #happen(happening: Happening): void {
    switch (happening.kind) {
      case "timer": {
        const { host, timer, setting, life } = happening;
        if (host.life !== life || host.timers.get(timer) !== setting) return;
        host.timers.delete(timer);
        this.step(host, { type: "timer-fired", timer });
        break;
      }
      case "message": {
        const { from, to, life, message } = happening;
        if (!to.up || to.life !== life) return;
        const waitMs = to.slowUntilMs - this.nowMs;
        if (waitMs > 0) this.#calendar.after(waitMs, happening);
        else this.step(to, { type: "received", from: from.id, message });
        break;
      }
      case "call":
        happening.act();
        break;
    }
  }
}

function describe({ index }: SimulatedHost, domainCount: number) {
  const addresses = [`/ip4/10.${index >>> 16}.${(index >>> 8) & 255}.${index & 255}/tcp/4821`];
  return { name: `host-${index}`, addresses, freeBytes: 1e12 + index, domainCount };
}

/** Stands for a signature: of its size, and different for different octets. */
function imprint(octets: Uint8Array): Uint8Array {
  const signature = new Uint8Array(64);
  let hash = 0x811c9dc5;
  for (const octet of octets) hash = Math.imul(hash ^ octet, 0x01000193);
  for (let i = 0; i < 16; i++) {
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d) + i;
    signature[i] = (hash >>> 11) & 255;
  }
  return signature;
}

/** Octets of the encoded message, without encoding it again and again. */
function sizeOf(message: MembershipMessage): number {
  if (!("updates" in message)) return encodeMessage(message).length;
  let size = encodeMessage({ ...message, updates: [] }).length;
  for (const update of message.updates) size += encodeUpdate(update).length;
  return size;
}
