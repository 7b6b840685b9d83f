/**
 * The members of a cluster, as a function of a set of signed statements: whoever has the same statements has
 * the same list, in whatever order they came, however often (a CRDT: sets grow, `add` is commutative and
 * idempotent, and what is derived depends on the set alone).
 *
 *   known    the founder, and whom a known host admitted. Only grows. Only known hosts' statements are kept
 *   revoked  whom a known host revoked. Only grows: a revocation wins for ever, also over its author's own later
 *            one, and a revoked host comes back only with a new key
 *   members  whom a chain of admissions leads to from the founder, and who is not revoked. A link of the chain
 *            that a revoked host made holds only if every revocation of that host keeps its other end. A host
 *            whose chain broke is void and no more: any member may admit it again
 *
 * Every member is trusted to admit and to revoke: the list says for ever who did. A statement of a host that
 * nobody here knows waits in a small room for the admission that explains it; what has no room is repaired by
 * the next exchange.
 *
 * Of several statements of one author about one host one is kept, chosen by what they say: the highest sequence
 * of a renewal, else the lowest id. So an author can make others hold no more than one statement of a kind for
 * each host, and the sums are bounded besides (`LIMITS`). Over them, which comes first counts: that takes a
 * member that floods, and each refusal names it.
 */

import { ProtocolError } from "../errors.ts";
import { badField } from "../octets.ts";
import {
  type Addresses,
  clusterIdOf,
  type Genesis,
  type HostId,
  openSigned,
  type Revoke,
  type SignedStatement,
  type StatementCrypto,
} from "./statement.ts";

export const LIMITS = {
  knownHosts: 4096,
  /** Of one author. */
  authorStatements: 2048,
  authorBytes: 1 << 20,
  statements: 16_384,
  bytes: 16 << 20,
  waiting: 256,
} as const;

export type Member = {
  readonly host: HostId;
  readonly name: string;
  readonly addresses: Addresses;
  /** Itself for the founder. */
  readonly admittedBy: HostId;
  /** Of its latest renewal; 0 without one. */
  readonly sequence: number;
};

export type Revoked = {
  readonly host: HostId;
  readonly name: string;
  readonly by: HostId;
  readonly reason: string;
};

/** `refused`: why, one sentence for each statement that was not taken. */
export type AddResult = { readonly added: readonly SignedStatement[]; readonly refused: readonly string[] };

type Derived = {
  readonly members: ReadonlyMap<HostId, Member>;
  readonly revoked: ReadonlyMap<HostId, Revoked>;
};

type Author = { statements: number; bytes: number };

export class MemberList {
  readonly cluster: string;
  readonly founder: HostId;
  readonly #crypto: StatementCrypto;
  readonly #genesis: SignedStatement & { statement: Genesis };
  /** By slot: one statement of each kind for author and host. */
  readonly #slots = new Map<string, SignedStatement>();
  readonly #byId = new Map<string, SignedStatement>();
  readonly #waiting = new Map<string, SignedStatement>();
  readonly #authors = new Map<HostId, Author>();
  readonly #known = new Set<HostId>();
  #bytes = 0;
  #derived: Derived | undefined;

  /** Throws ProtocolError when `genesis` is none. */
  constructor(genesis: Uint8Array, crypto: StatementCrypto) {
    const signed = openSigned(genesis, crypto);
    const { statement } = signed;
    if (statement.kind !== "genesis") throw badField("member-statement.kind", "not a genesis");
    this.#crypto = crypto;
    this.#genesis = { ...signed, statement };
    this.cluster = clusterIdOf(signed, crypto);
    this.founder = statement.by;
    this.#known.add(statement.by);
    this.#byId.set(signed.id, signed);
  }

  get genesis(): Uint8Array {
    return this.#genesis.bytes;
  }

  /** Takes what is true and new. Never throws for what a peer sent. */
  add(statements: readonly Uint8Array[]): AddResult {
    const added: SignedStatement[] = [];
    const refused: string[] = [];
    for (const bytes of statements) {
      try {
        const signed = this.#open(bytes);
        if (signed !== undefined) added.push(...this.#take(signed));
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
        refused.push(error.message);
      }
    }
    if (added.length > 0) this.#derived = undefined;
    return { added, refused };
  }

  members(): ReadonlyMap<HostId, Member> {
    return this.#derive().members;
  }

  revoked(): ReadonlyMap<HostId, Revoked> {
    return this.#derive().revoked;
  }

  /** Members that are so by `host`'s own admission: those whom its revocation would void or keep. */
  admittedBy(host: HostId): HostId[] {
    const { members } = this.#derive();
    const hosts = new Set<HostId>();
    for (const { statement } of this.#slots.values()) {
      if (statement.kind === "admit" && statement.by === host && members.has(statement.host)) {
        hosts.add(statement.host);
      }
    }
    return [...hosts].sort();
  }

  /** Ids of all that is kept, ascending; the genesis among them. */
  ids(): string[] {
    return [...this.#byId.keys()].sort();
  }

  get(id: string): Uint8Array | undefined {
    return this.#byId.get(id)?.bytes;
  }

  /** All statements but the genesis, admissions before what their hosts say. */
  statements(): Uint8Array[] {
    return [...this.#slots.values()].map(({ bytes }) => bytes);
  }

  /** Undefined for one that is here already. */
  #open(bytes: Uint8Array): SignedStatement | undefined {
    const signed = openSigned(bytes, this.#crypto);
    const { statement, id } = signed;
    if (this.#byId.has(id) || this.#waiting.has(id)) return undefined;
    if (statement.kind === "genesis") throw about(statement.by, "another cluster's genesis");
    if (statement.cluster !== this.cluster) throw about(statement.by, "of another cluster");
    return signed;
  }

  #take(signed: SignedStatement): SignedStatement[] {
    if (!this.#known.has(signed.statement.by)) {
      this.#wait(signed);
      return [];
    }
    if (!this.#place(signed)) return [];
    const taken = [signed];
    const { statement } = signed;
    if (statement.kind !== "admit" || this.#known.has(statement.host)) return taken;
    this.#known.add(statement.host);
    // What that host said may have come before the word that it belongs here.
    for (const waiting of [...this.#waiting.values()]) {
      if (waiting.statement.by !== statement.host || !this.#waiting.delete(waiting.id)) continue;
      taken.push(...this.#take(waiting));
    }
    return taken;
  }

  #wait(signed: SignedStatement): void {
    if (this.#waiting.size >= LIMITS.waiting)
      throw about(signed.statement.by, "not known, and no room to wait");
    this.#waiting.set(signed.id, signed);
  }

  /** False when one that is here says more. */
  #place(signed: SignedStatement): boolean {
    const { statement, id, bytes } = signed;
    const slot = slotOf(signed);
    const present = this.#slots.get(slot);
    if (present !== undefined && !replaces(signed, present)) return false;
    const author = this.#authors.get(statement.by) ?? { statements: 0, bytes: 0 };
    const grown = {
      statements: author.statements + (present === undefined ? 1 : 0),
      bytes: author.bytes + bytes.length - (present?.bytes.length ?? 0),
    };
    this.#refuseOverLimits(signed, { grown, isNew: present === undefined });
    this.#bytes += grown.bytes - author.bytes;
    this.#authors.set(statement.by, grown);
    if (present !== undefined) this.#byId.delete(present.id);
    this.#slots.set(slot, signed);
    this.#byId.set(id, signed);
    return true;
  }

  #refuseOverLimits(
    { statement }: SignedStatement,
    { grown, isNew }: { grown: Author; isNew: boolean },
  ): void {
    const { by } = statement;
    if (grown.statements > LIMITS.authorStatements) throw about(by, "has said too much: too many statements");
    if (grown.bytes > LIMITS.authorBytes) throw about(by, "has said too much: too many octets");
    if (isNew && this.#byId.size >= LIMITS.statements)
      throw about(by, "one statement too many for the cluster");
    const growth = grown.bytes - (this.#authors.get(by)?.bytes ?? 0);
    if (this.#bytes + growth > LIMITS.bytes) throw about(by, "too many octets for the cluster");
    const admits = statement.kind === "admit" && !this.#known.has(statement.host);
    if (admits && this.#known.size >= LIMITS.knownHosts) throw about(by, "one host too many for the cluster");
  }

  #derive(): Derived {
    this.#derived ??= derive(this.#genesis.statement, this.#slots.values());
    return this.#derived;
  }
}

function derive(genesis: Genesis, kept: Iterable<SignedStatement>): Derived {
  const names = new Map<HostId, { name: string; addresses: Addresses; sequence: number; from: string }>();
  const admissions = new Map<HostId, { host: HostId; id: string }[]>();
  const revocations = new Map<HostId, { id: string; statement: Revoke }[]>();
  names.set(genesis.by, { name: genesis.name, addresses: genesis.addresses, sequence: 0, from: "" });
  for (const { statement, id } of kept) {
    switch (statement.kind) {
      case "admit": {
        append(admissions, statement.by, { host: statement.host, id });
        const present = names.get(statement.host);
        // Of several admissions the one with the lowest id names the host, until it renews itself.
        if (present === undefined || (present.sequence === 0 && id < present.from)) {
          const { name, addresses } = statement;
          names.set(statement.host, { name, addresses, sequence: 0, from: id });
        }
        break;
      }
      case "revoke":
        append(revocations, statement.host, { id, statement });
        break;
      case "renew": {
        const { name, addresses, sequence } = statement;
        names.set(statement.by, { name, addresses, sequence, from: id });
        break;
      }
      case "genesis":
        break;
    }
  }
  const revoked = new Map<HostId, Revoked>();
  for (const [host, all] of revocations) {
    const { by, reason } = all.reduce((first, each) => (each.id < first.id ? each : first)).statement;
    revoked.set(host, { host, name: names.get(host)?.name ?? host, by, reason });
  }
  const holds = (by: HostId, host: HostId): boolean =>
    revocations.get(by)?.every(({ statement }) => statement.keeps.includes(host)) ?? true;
  const admittedBy = chains(genesis.by, { admissions, holds });
  const members = new Map<HostId, Member>();
  for (const [host, by] of [...admittedBy].sort(([one], [other]) => (one < other ? -1 : 1))) {
    if (revoked.has(host)) continue;
    const { name, addresses, sequence } = names.get(host)!;
    members.set(host, { host, name, addresses, sequence, admittedBy: by });
  }
  return { members, revoked };
}

/** Whom chains of admissions that hold lead to, and by whose admission: the lowest id of the shortest chain's. */
function chains(
  founder: HostId,
  {
    admissions,
    holds,
  }: {
    admissions: ReadonlyMap<HostId, readonly { host: HostId; id: string }[]>;
    holds: (by: HostId, host: HostId) => boolean;
  },
): Map<HostId, HostId> {
  const reached = new Map<HostId, HostId>([[founder, founder]]);
  for (let wave = [founder]; wave.length > 0; ) {
    const links = wave
      .flatMap((by) => (admissions.get(by) ?? []).map((admission) => ({ by, ...admission })))
      .filter(({ by, host }) => !reached.has(host) && holds(by, host))
      .sort((one, other) => (one.id < other.id ? -1 : 1));
    for (const { by, host } of links) if (!reached.has(host)) reached.set(host, by);
    wave = [...new Set(links.map(({ host }) => host))];
  }
  return reached;
}

function append<Item>(lists: Map<HostId, Item[]>, host: HostId, item: Item): void {
  const list = lists.get(host);
  if (list === undefined) lists.set(host, [item]);
  else list.push(item);
}

function slotOf({ statement, id }: SignedStatement): string {
  switch (statement.kind) {
    case "admit":
    case "revoke":
      return `${statement.kind} ${statement.by} ${statement.host}`;
    case "renew":
      return `renew ${statement.by}`;
    case "genesis":
      return `genesis ${id}`;
  }
}

function replaces({ statement, id }: SignedStatement, present: SignedStatement): boolean {
  const other = present.statement;
  if (statement.kind === "renew" && other.kind === "renew" && statement.sequence !== other.sequence) {
    return statement.sequence > other.sequence;
  }
  return id < present.id;
}

function about(by: HostId, reason: string): ProtocolError {
  return badField(`member-statement of ${by}`, reason);
}
