/**
 * What hosts tell one another about who is a member and alive. `wire.ts` gives each message its octets.
 *
 * Everything that is told is an `Update`: what its owner last signed about itself, and what others accuse it of,
 * signed by them. An update proves itself, so it does not matter who relays it, nobody can invent an incarnation
 * for another, and a host that never heard of a member learns it from its accusation as well.
 */

import type { HostId } from "../messages.ts";

export type { HostId };

/** `left` went on purpose. *Suspect* never starts anything; *dead* only removes a target. */
export type MemberStatus = "alive" | "suspect" | "dead" | "left";

/** What a host says of itself. */
export type HostDescription = {
  readonly name: string;
  /** Multiaddrs under which the host can be dialled. */
  readonly addresses: readonly string[];
  readonly freeBytes: number;
  readonly domainCount: number;
};

/** A host's own word about itself. A higher incarnation replaces a lower one; only the host can raise it. */
export type MemberRecord = HostDescription & {
  readonly host: HostId;
  readonly incarnation: number;
  readonly state: "alive" | "left";
  /** Over `recordOctets`, by `host`. */
  readonly signature: Uint8Array;
};

export type AccusationKind = "suspect" | "dead";

/** `from` says that the record's host does not answer under the record's incarnation. */
export type Accusation = {
  readonly kind: AccusationKind;
  readonly from: HostId;
  /** Over `accusationOctets`, by `from`. */
  readonly signature: Uint8Array;
};

/**
 * `alive` and `left` have no accusations, `dead` has one of its kind. `suspect` has those that confirm one
 * another; one that says "dead" suspects, too (it came by a state exchange, where nobody is buried unheard).
 */
export type Update = {
  readonly record: MemberRecord;
  readonly status: MemberStatus;
  readonly accusations: readonly Accusation[];
};

export type MembershipMessage =
  /** Are you there? Answered by `ack` with the same sequence. */
  | { type: "ping"; sequence: number; updates: readonly Update[] }
  | { type: "ack"; sequence: number; updates: readonly Update[] }
  /** Ping `target` for me. Answered by `ack` when it answers, by `nack` when it does not in time. */
  | { type: "ping-request"; sequence: number; target: HostId; updates: readonly Update[] }
  | { type: "nack"; sequence: number }
  | { type: "gossip"; updates: readonly Update[] }
  /** Begins a state exchange. Who has another digest sends its state and wants ours. */
  | { type: "compare"; digest: Digest }
  /** A part of all that the sender knows; the last part may want the same in return. */
  | { type: "state"; updates: readonly Update[]; wantsAnswer: boolean };

/** Two halves of 32 bits: equal when two hosts believe the same hosts alive by the same records. */
export type Digest = readonly [number, number];
