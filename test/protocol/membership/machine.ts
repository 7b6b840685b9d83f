/**
 * One membership machine with its time in the hand of the test, and updates as the other hosts would sign them.
 * A signature here is a digest of the signer's name and the octets: what matters is that each signer's differ.
 */

import { createHash } from "node:crypto";
import { LAN, type MembershipConfig } from "../../../protocol/membership/config.ts";
import {
  initial,
  type MembershipContext,
  type MembershipEffect,
  type MembershipEvent,
  type MembershipState,
  type MembershipTimer,
  step,
} from "../../../protocol/membership/membership.ts";
import type {
  Accusation,
  AccusationKind,
  HostId,
  MemberRecord,
  MemberStatus,
  MembershipMessage,
  Update,
} from "../../../protocol/membership/messages.ts";
import { accusationOctets, recordOctets } from "../../../protocol/membership/wire.ts";
import { Prng } from "../../simulation/prng.ts";

export const SELF = "self";

export function signatureOf(host: HostId, octets: Uint8Array): Uint8Array {
  return new Uint8Array(createHash("sha512").update(`${host}\0`).update(octets).digest());
}

export function recordOf(
  host: HostId,
  incarnation: number,
  said: Partial<Omit<MemberRecord, "signature">> = {},
): MemberRecord {
  const record = {
    host,
    incarnation,
    state: "alive" as const,
    name: `name-of-${host.slice(0, 40)}`,
    addresses: ["/ip4/127.0.0.1/tcp/4821"],
    freeBytes: 1000,
    domainCount: 0,
    ...said,
  };
  return { ...record, signature: signatureOf(host, recordOctets(record)) };
}

export function accusationOf(record: MemberRecord, from: HostId, kind: AccusationKind): Accusation {
  return { kind, from, signature: signatureOf(from, accusationOctets(record, { kind, from })) };
}

export function alive(
  host: HostId,
  incarnation = 1,
  said: Partial<Omit<MemberRecord, "signature">> = {},
): Update {
  return { record: recordOf(host, incarnation, said), status: "alive", accusations: [] };
}

export function left(host: HostId, incarnation: number): Update {
  return { record: recordOf(host, incarnation, { state: "left" }), status: "left", accusations: [] };
}

export function suspect(host: HostId, incarnation: number, ...accusers: HostId[]): Update {
  const record = recordOf(host, incarnation);
  const accusations = accusers.map((from) => accusationOf(record, from, "suspect"));
  return { record, status: "suspect", accusations };
}

export function dead(host: HostId, incarnation: number, accuser: HostId): Update {
  const record = recordOf(host, incarnation);
  return { record, status: "dead", accusations: [accusationOf(record, accuser, "dead")] };
}

type Sent = Extract<MembershipEffect, { type: "send" }>;

export class Machine {
  readonly config: MembershipConfig;
  readonly prng: Prng;
  state: MembershipState;
  nowMs = 0;
  incarnationMax: number | undefined;
  /** Effects of the last event. */
  effects: readonly MembershipEffect[] = [];
  /** Signatures that were looked at, ever. */
  verifications = 0;
  revoked = new Set<HostId>();
  readonly #due = new Map<MembershipTimer, number>();

  constructor(
    options: { config?: Partial<MembershipConfig>; seed?: number; members?: number; self?: HostId } = {},
  ) {
    this.config = { ...LAN, ...options.config };
    this.prng = new Prng(options.seed ?? 1);
    this.state = initial({ self: options.self ?? SELF, config: this.config });
    const { name, addresses, freeBytes, domainCount } = recordOf(this.state.self, 0);
    this.do({ type: "start", incarnation: 1, description: { name, addresses, freeBytes, domainCount } });
    for (let i = 1; i <= (options.members ?? 0); i++) this.hear("host-1", alive(`host-${i}`));
    this.forgetTellings();
  }

  do(event: MembershipEvent): readonly MembershipEffect[] {
    const context: MembershipContext = {
      config: this.config,
      nowMs: this.nowMs,
      random: () => this.prng.u32() / 2 ** 32,
      sign: (octets) => signatureOf(this.state.self, octets),
      verify: (host, octets, signature) => {
        this.verifications += 1;
        return !this.revoked.has(host) && Buffer.compare(signatureOf(host, octets), signature) === 0;
      },
      ...(this.incarnationMax === undefined ? {} : { incarnationMax: this.incarnationMax }),
    };
    const [state, effects] = step(this.state, event, context);
    this.state = state;
    this.effects = effects;
    for (const effect of effects) {
      if (effect.type === "set-timer") this.#due.set(effect.timer, this.nowMs + effect.afterMs);
    }
    return effects;
  }

  /** Updates that come by gossip. */
  hear(from: HostId, ...updates: Update[]): readonly MembershipEffect[] {
    return this.do({ type: "received", from, message: { type: "gossip", updates } });
  }

  /** Updates that come by a state exchange. */
  exchange(from: HostId, ...updates: Update[]): readonly MembershipEffect[] {
    return this.do({ type: "received", from, message: { type: "state", updates, wantsAnswer: false } });
  }

  receive(from: HostId, message: MembershipMessage): readonly MembershipEffect[] {
    return this.do({ type: "received", from, message });
  }

  /** Lets a timer fire now, whenever it is due. */
  fire(timer: MembershipTimer): readonly MembershipEffect[] {
    this.#due.delete(timer);
    return this.do({ type: "timer-fired", timer });
  }

  /** Lets time pass, firing what is due; returns all effects. Timers of `except` stay silent. */
  pass(durationMs: number, except: readonly string[] = []): MembershipEffect[] {
    const all: MembershipEffect[] = [];
    const endMs = this.nowMs + durationMs;
    for (;;) {
      const next = [...this.#due]
        .filter(([timer]) => !except.includes(timer))
        .sort(([, a], [, b]) => a - b)[0];
      if (next === undefined || next[1] > endMs) break;
      this.nowMs = Math.max(this.nowMs, next[1]);
      all.push(...this.fire(next[0]));
    }
    this.nowMs = endMs;
    return all;
  }

  /** What was to be told on is told: what is in the queue afterwards came afterwards. */
  forgetTellings(): void {
    this.state.queue.delete(this.state.self);
    for (const { host } of this.state.table.members()) this.state.queue.delete(host);
  }

  statusOf(host: HostId): MemberStatus | undefined {
    return this.state.table.get(host)?.update.status;
  }

  incarnationOf(host: HostId): number | undefined {
    return this.state.table.get(host)?.update.record.incarnation;
  }

  get ownIncarnation(): number {
    return this.state.own!.record.incarnation;
  }

  /** The newest that is still to be told about a host. */
  tells(host: HostId): Update | undefined {
    const known = host === this.state.self ? this.state.own : this.state.table.get(host)?.update;
    return known !== undefined && this.state.queue.has(known) ? known : undefined;
  }

  dueInMs(timer: MembershipTimer): number | undefined {
    const dueMs = this.#due.get(timer);
    return dueMs === undefined ? undefined : dueMs - this.nowMs;
  }
}

export function sent<T extends MembershipMessage["type"]>(
  effects: readonly MembershipEffect[],
  type: T,
): { to: HostId; message: Extract<MembershipMessage, { type: T }> }[] {
  return effects
    .filter((effect): effect is Sent => effect.type === "send" && effect.message.type === type)
    .map(({ to, message }) => ({ to, message: message as Extract<MembershipMessage, { type: T }> }));
}

export function changes(effects: readonly MembershipEffect[]) {
  return effects
    .filter((effect) => effect.type === "changed")
    .map(({ host, from, to, by }) => ({ host, from, to, by }));
}

export function offences(effects: readonly MembershipEffect[]) {
  return effects
    .filter((effect) => effect.type === "offence")
    .map(({ peer, offence }) => ({ peer, ...offence }));
}
