/** What membership knows, hears and does: state, events, effects and context of `step`. */

import type { MembershipConfig } from "./config.ts";
import type { Member, MemberTable, Random } from "./member-table.ts";
import type {
  Accusation,
  HostDescription,
  HostId,
  MemberStatus,
  MembershipMessage,
  Update,
} from "./messages.ts";
import type { UpdateQueue } from "./update-queue.ts";

export type MembershipContext = {
  readonly config: MembershipConfig;
  /** Monotonic. Only differences count. */
  readonly nowMs: number;
  /** Uniform in [0, 1), from a seeded generator: the same seed and events give the same effects. */
  readonly random: Random;
  /** This host's signature, SIGNATURE_SIZE octets. Ed25519 is deterministic, so this is a function like any other. */
  readonly sign: (octets: Uint8Array) => Uint8Array;
  /**
   * Whether `host` is on the member list, is not revoked and signed `octets`. Called before anything is believed,
   * and only for what would change our mind: never for what is old or known. The driver puts the cluster's id in
   * front of the octets, here and in `sign`, so that no record of another cluster passes.
   */
  readonly verify: (host: HostId, octets: Uint8Array, signature: Uint8Array) => boolean;
  /**
   * No record with a higher incarnation is believed. Where incarnations begin with the wall clock: now, in
   * milliseconds, and a day; a host whose clock is far ahead is then refused by name.
   */
  readonly incarnationMax?: number;
};

/** Setting a timer again replaces it. One per name; there are no more suspicions than members. */
export type MembershipTimer =
  | "probe"
  | "probe-timeout"
  | "gossip"
  | "exchange"
  | "reconnect"
  | "join"
  | "refute"
  | "announce"
  | "leave"
  | `relay:${number}`
  | `suspicion:${HostId}`;

export type MembershipEvent =
  /**
   * `incarnation` is higher than any this host ever had: the wall clock in milliseconds, or a persisted number + 1.
   * Were it lower, the cluster's memory of the former life makes us go beyond it.
   */
  | { type: "start"; incarnation: number; description: HostDescription }
  /** What was known before a restart. Nobody in it is believed beyond its owner's signature. */
  | { type: "restore"; updates: readonly Update[] }
  /** Hosts that can be asked for the cluster's state: asked now, and again while we are alone. */
  | { type: "join"; seeds: readonly HostId[] }
  /** A connection is new: both ends compare what they know. */
  | { type: "connected"; host: HostId }
  /** A connection was lost, or the host cannot be dialled: it is probed at once, or no longer waited for. */
  | { type: "unreachable"; host: HostId }
  /** What this host says of itself has changed. */
  | { type: "announce"; description: HostDescription }
  | { type: "leave" }
  /** The host was revoked: forgotten at once. `verify` must refuse it from now on. */
  | { type: "remove"; host: HostId }
  /** Decoded; `from` is authenticated by the connection and on the member list. */
  | { type: "received"; from: HostId; message: MembershipMessage }
  | { type: "timer-fired"; timer: MembershipTimer };

export type MembershipEffect =
  /** May be lost, and must not be waited for: a host that cannot be reached is what this is about. */
  | { type: "send"; to: HostId; message: MembershipMessage }
  | { type: "set-timer"; timer: MembershipTimer; afterMs: number }
  /**
   * `from` is undefined for a new member, `to` for one that was forgotten; equal ones mean that only its record
   * changed. `by` are the accusers when `to` is suspect or dead: this host among them when it found out itself.
   */
  | {
      type: "changed";
      host: HostId;
      from: MemberStatus | undefined;
      to: MemberStatus | undefined;
      by: readonly HostId[];
    }
  /** This host was accused and has answered with a higher incarnation. Worth a log line and a counter. */
  | { type: "refuted"; incarnation: number; by: readonly HostId[] }
  /** `peer` did what no honest host does. It is named in the log; drop its connection when it goes on. */
  | { type: "offence"; peer: HostId; offence: Offence }
  /** The farewell was told: connections may be closed. */
  | { type: "left" };

export type Offence =
  /** It relayed something about, or in the name of, `host` with a signature that is not that host's. */
  | { kind: "forged"; host: HostId }
  /** It signed two records with one incarnation. Of both the same one is kept everywhere. */
  | { kind: "contradiction" }
  /** It relayed a record of `host` beyond `incarnationMax`. */
  | { kind: "future-dated"; host: HostId; incarnation: number }
  /** There is no room for `host`: more members than `membersMax`, none of them dead. */
  | { kind: "flood"; host: HostId };

export type Probe = {
  readonly sequence: number;
  readonly target: Member;
  /** The accusation is about this incarnation, even if the member has a new one by then. */
  readonly incarnation: number;
  readonly sentAtMs: number;
  readonly timeoutMs: number;
  /** Others were asked; `helpers` says who, and whether they sent a nack. */
  indirect: boolean;
  readonly helpers: Map<HostId, boolean>;
  answered: boolean;
};

/** A probe on behalf of `asker`. */
export type Relay = { readonly asker: HostId; readonly sequence: number; readonly target: HostId };

/**
 * Owned by the machine and mutated in place by `step`; others only read. `idle`: not started, or gone.
 * `leaving`: the farewell is being told.
 */
export type MembershipState = {
  readonly self: HostId;
  phase: "idle" | "running" | "leaving";
  /** This host's own record. */
  own: Update | undefined;
  readonly table: MemberTable;
  readonly queue: UpdateQueue;
  gossipArmed: boolean;
  /** Local health: 0 is well. */
  awareness: number;
  sequence: number;
  probe: Probe | undefined;
  /** Members to probe out of turn. */
  looks: HostId[];
  readonly relays: Map<number, Relay>;
  seeds: readonly HostId[];
  joinRetryMs: number;
  /** When the exchange timer is set to. */
  exchangeAtMs: number;
  refutedAtMs: number;
  /** Of our present incarnation, not yet refuted because the last refutation was just now. */
  unrefuted: { readonly accusations: readonly Accusation[]; readonly peer: HostId } | undefined;
  announcedAtMs: number;
  /** To be announced when `announceIntervalMs` is over. */
  unannounced: HostDescription | undefined;
};

export type MembershipStep = readonly [MembershipState, readonly MembershipEffect[]];

/** One step in progress: what its helpers read and add to. */
export type Turn = {
  readonly state: MembershipState;
  readonly context: MembershipContext;
  readonly effects: MembershipEffect[];
};

export function setTimer({ effects }: Turn, timer: MembershipTimer, afterMs: number): void {
  effects.push({ type: "set-timer", timer, afterMs });
}

/** Hosts that take part, this one included. */
export function hostCount({ table }: MembershipState): number {
  return table.active.length + 1;
}
