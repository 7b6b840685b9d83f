/**
 * This host's cluster: who is a member, which secrets open a connection, which invitations are open. Everything
 * that changes goes through here, one change after the other, and is on the disk before anybody is told.
 *
 * A host has no cluster until it makes one (`create`) or joins one (`adopt`). What it learns from other members
 * (`learnStatements`, `learnSecrets`) proves itself, or comes over a connection of a member.
 */

import { randomBytes } from "node:crypto";
import { ProtocolError } from "../../protocol/errors.ts";
import { type Member, MemberList } from "../../protocol/members/member-list.ts";
import {
  type Addresses,
  hexOf,
  KEEPS_MAX,
  type SignedStatement,
  type Statement,
} from "../../protocol/members/statement.ts";
import type { Clock } from "../clock.ts";
import { NodeError } from "../errors.ts";
import type { Identity } from "../identity.ts";
import type { Log } from "../log.ts";
import { keyIdOf } from "../network/key-ring.ts";
import { Turns } from "../network/turns.ts";
import { type Invitation, readClusterFile, writeClusterFile } from "./cluster-file.ts";
import type { AdmissionSnapshot } from "./cluster-keys.ts";
import { type ClusterSecret, decodeSecret, SECRET_SIZE, SecretSet } from "./secrets.ts";
import { signStatement, statementCrypto } from "./signing.ts";
import { formatToken } from "./token.ts";

/** More open invitations than this are a mistake. */
export const INVITATIONS_MAX = 1024;
export const USES_MAX = 1000;

type State = { list: MemberList; secrets: SecretSet; invitations: readonly Invitation[] };

/** What a joiner gets: all it needs to be a member. */
export type Membership = {
  readonly genesis: Uint8Array;
  readonly statements: readonly Uint8Array[];
  readonly secrets: readonly ClusterSecret[];
};

export type Described = { readonly name: string; readonly addresses: Addresses };

/** What changed, for those who tell others. */
export type ClusterChange = {
  /** Statements that the others may not have heard. */
  readonly news: readonly Uint8Array[];
  /** Whoever told us need not be told. */
  readonly from: string | undefined;
  readonly secrets: boolean;
};

/** How statements came here: gossip tells them on by itself, a comparison only to whoever compares. */
export type HeardBy = "gossip" | "comparison";

export type ClusterParts = { file: string; identity: Identity; clock: Clock; log: Log };

export class Cluster {
  readonly #parts: ClusterParts;
  readonly #turns = new Turns();
  readonly #listeners = new Set<(change: ClusterChange) => void>();
  #state: State | undefined;

  private constructor(parts: ClusterParts, state: State | undefined) {
    this.#parts = parts;
    this.#state = state;
  }

  /** Throws CLUSTER_FILE_EXPOSED, CLUSTER_FILE_CORRUPT. */
  static async load(parts: ClusterParts): Promise<Cluster> {
    const record = await readClusterFile(parts.file);
    if (record === undefined) return new Cluster(parts, undefined);
    try {
      const state = { ...stateOf(record), invitations: record.invitations };
      return new Cluster(parts, state);
    } catch (cause) {
      if (!(cause instanceof ProtocolError)) throw cause;
      throw new NodeError("CLUSTER_FILE_CORRUPT", { file: parts.file, reason: cause.message }, { cause });
    }
  }

  /** Undefined while this host has none. */
  get id(): string | undefined {
    return this.#state?.list.cluster;
  }

  get self(): string {
    return this.#parts.identity.hostId;
  }

  members(): readonly Member[] {
    return [...(this.#state?.list.members().values() ?? [])];
  }

  /** The member list itself, as a topic of the exchange; undefined without a cluster. */
  list(): Pick<MemberList, "ids" | "get" | "revoked" | "members"> | undefined {
    return this.#state?.list;
  }

  secrets(): Pick<SecretSet, "ids" | "get" | "all"> | undefined {
    return this.#state?.secrets;
  }

  /** Called after every change, when it is durable. */
  onChange(listener: (change: ClusterChange) => void): void {
    this.#listeners.add(listener);
  }

  /** What decides who is let in. */
  admission(): AdmissionSnapshot {
    const state = this.#state;
    if (state === undefined) return { members: [], revoked: [], secrets: [], invitations: [] };
    return {
      members: [...state.list.members().keys()],
      revoked: [...state.list.revoked().values()].map(({ host, by, reason }) => ({ host, by, reason })),
      secrets: state.secrets.all(),
      invitations: state.invitations,
    };
  }

  /** A new cluster with this host alone; the one that is there stays. True when it was made now. */
  create(described: Described): Promise<boolean> {
    return this.#turns.run(async () => {
      if (this.#state !== undefined) return false;
      const nonce = randomBytes(16).toString("hex");
      const genesis = await this.#sign({ kind: "genesis", by: this.self, nonce, ...described });
      const list = new MemberList(genesis.bytes, statementCrypto);
      const secrets = new SecretSet([{ epoch: 1, othersEndAtMs: 0, secret: randomBytes(SECRET_SIZE) }]);
      await this.#commit({ list, secrets, invitations: [] }, { news: [], from: undefined, secrets: true });
      return true;
    });
  }

  /**
   * Becomes a member of another's cluster, or again of this one. A cluster that has no other host is given up
   * for it. Throws CLUSTER_ALREADY, and JOIN_REFUSED when what was given does not make this host a member.
   */
  adopt(given: Membership, expected: { cluster: string; inviter: string }): Promise<void> {
    return this.#turns.run(async () => {
      this.refuseJoining(expected.cluster);
      const refuse = (reason: string) => new NodeError("JOIN_REFUSED", { host: expected.inviter, reason });
      let state: State;
      try {
        const { list, secrets } = stateOf(given);
        state = { list, secrets, invitations: [] };
      } catch (cause) {
        if (!(cause instanceof ProtocolError)) throw cause;
        throw refuse(`its answer is wrong: ${cause.message}`);
      }
      const { list } = state;
      if (list.cluster !== expected.cluster) throw refuse("its cluster is not the one of the token");
      if (!list.members().has(expected.inviter)) throw refuse("it is no member of its cluster itself");
      if (!list.members().has(this.self)) throw refuse("it did not make this host a member");
      if (this.#state?.list.cluster === expected.cluster) {
        list.add(this.#state.list.statements());
        for (const secret of this.#state.secrets.all()) state.secrets.add(secret);
        state = { ...state, invitations: this.#state.invitations };
      }
      // All of it came from there.
      await this.#commit(state, { news: [], from: expected.inviter, secrets: true });
    });
  }

  /** Throws CLUSTER_ALREADY when this host is a member of a cluster with other hosts. */
  refuseJoining(cluster: string): void {
    const list = this.#state?.list;
    if (list === undefined || list.cluster === cluster || list.ids().length === 1) return;
    const others = [...list.members().keys()].filter((host) => host !== this.self);
    // Alone, whatever it said about itself: nobody but this host knows of that cluster.
    if (others.length === 0 && list.revoked().size === 0) return;
    throw new NodeError("CLUSTER_ALREADY", { cluster: list.cluster, members: others.length + 1 });
  }

  /** A token that lets `uses` hosts in until then. Throws CLUSTER_NONE. */
  invite(options: { expiresMs: number; uses: number; addresses: readonly string[] }): Promise<{
    token: string;
    expiresAtMs: number;
  }> {
    return this.#turns.run(async () => {
      const state = this.#needed();
      const now = this.#now();
      const secret = randomBytes(SECRET_SIZE);
      const expiresAtMs = Math.ceil((now + options.expiresMs) / 1000) * 1000;
      const open = state.invitations.filter((each) => isOpen(each, now));
      if (open.length >= INVITATIONS_MAX) {
        throw new NodeError("USAGE", { reason: `${INVITATIONS_MAX} invitations are open already` });
      }
      const invitations = [...open, { secret, expiresAtMs, usesLeft: options.uses }];
      await this.#commit({ ...state, invitations }, { news: [], from: undefined, secrets: false });
      const { addresses } = options;
      const token = { cluster: state.list.cluster, inviter: this.self, expiresAtMs, addresses, secret };
      return { token: formatToken(token), expiresAtMs };
    });
  }

  /** Withdraws every open invitation; returns how many there were. */
  withdrawInvitations(): Promise<number> {
    return this.#turns.run(async () => {
      const state = this.#needed();
      const open = state.invitations.filter((each) => isOpen(each, this.#now())).length;
      await this.#commit({ ...state, invitations: [] }, { news: [], from: undefined, secrets: false });
      return open;
    });
  }

  /** Lets the holder of an invitation in and counts it, both durable before it is told. Throws JOIN_REFUSED. */
  redeem(keyId: Uint8Array, host: string, described: Described): Promise<Membership> {
    return this.#turns.run(async () => {
      const state = this.#needed();
      const { list, secrets } = state;
      const refuse = (reason: string) => new NodeError("JOIN_REFUSED", { host: this.self, reason });
      const used = state.invitations.find((each) => hexOf(keyIdOf(each.secret)) === hexOf(keyId));
      if (used === undefined || !isOpen(used, this.#now()))
        throw refuse("the token has expired or is used up");
      const revoked = list.revoked().get(host);
      if (revoked !== undefined) throw refuse(`the host was revoked (${revoked.reason}): it needs a new key`);
      const isMember = list.members().has(host);
      const added = isMember ? [] : [await this.#admit(list, host, described)];
      const invitations = state.invitations
        .map((each) => (each === used ? { ...each, usesLeft: each.usesLeft - 1 } : each))
        .filter((each) => isOpen(each, this.#now()));
      await this.#commit({ ...state, invitations }, { news: added, from: host, secrets: false });
      return { genesis: list.genesis, statements: list.statements(), secrets: secrets.all() };
    });
  }

  /**
   * Shuts a host out for ever. The hosts that it had admitted stay, unless `withAdmitted`. Throws CLUSTER_NONE,
   * HOST_UNKNOWN, USAGE when this host would void itself.
   */
  revoke(host: string, options: { reason: string; withAdmitted: boolean }): Promise<void> {
    return this.#turns.run(async () => {
      const state = this.#needed();
      const { list } = state;
      if (list.revoked().has(host)) return;
      if (!list.members().has(host)) throw new NodeError("HOST_UNKNOWN", { query: host });
      const keeps = options.withAdmitted ? [] : list.admittedBy(host).slice(0, KEEPS_MAX);
      const { cluster } = list;
      const statement = {
        kind: "revoke",
        cluster,
        by: this.self,
        host,
        reason: options.reason,
        keeps,
      } as const;
      const signed = await this.#sign(statement);
      const trial = new MemberList(list.genesis, statementCrypto);
      trial.add([...list.statements(), signed.bytes]);
      if (host !== this.self && !trial.members().has(this.self)) {
        const reason = "this host is a member by that host's admission: revoke it without --with-admitted";
        throw new NodeError("USAGE", { reason });
      }
      list.add([signed.bytes]);
      await this.#commit(state, { news: [signed.bytes], from: undefined, secrets: false });
    });
  }

  /** A new secret; those before it are accepted for `overlapMs` more. Throws CLUSTER_NONE. */
  rotateSecret(overlapMs: number): Promise<{ epoch: number; othersEndAtMs: number }> {
    return this.#turns.run(async () => {
      const state = this.#needed();
      const next = state.secrets.next(randomBytes(SECRET_SIZE), Math.ceil(this.#now() + overlapMs));
      state.secrets.add(next);
      await this.#commit(state, { news: [], from: undefined, secrets: true });
      return { epoch: next.epoch, othersEndAtMs: next.othersEndAtMs };
    });
  }

  /** Says where this host is now, if the list says something else. */
  renew({ name, addresses }: Described): Promise<void> {
    return this.#turns.run(async () => {
      const { list } = this.#state ?? {};
      const listed = list?.members().get(this.self);
      if (this.#state === undefined || list === undefined || listed === undefined) return;
      const said = { name: listed.name, addresses: listed.addresses };
      if (JSON.stringify(said) === JSON.stringify({ name, addresses })) return;
      const sequence = listed.sequence + 1;
      const { cluster } = list;
      const { bytes } = await this.#sign({
        kind: "renew",
        cluster,
        by: this.self,
        sequence,
        name,
        addresses,
      });
      const { refused } = list.add([bytes]);
      if (refused.length > 0) {
        this.#parts.log.warn("our own addresses are not listed", { reason: refused[0] });
        return;
      }
      await this.#commit(this.#state, { news: [bytes], from: undefined, secrets: false });
    });
  }

  /** Takes what a member told: how many of the statements were news, and how many wrong. */
  learnStatements(
    items: readonly Uint8Array[],
    { from, by }: { from: string; by: HeardBy },
  ): Promise<{ added: number; refused: number }> {
    return this.#turns.run(async () => {
      const state = this.#state;
      if (state === undefined) return { added: 0, refused: 0 };
      const { added, refused } = state.list.add(items);
      for (const reason of refused.slice(0, 3)) {
        this.#parts.log.warn("statement refused", { from, reason, refused: refused.length });
      }
      if (added.length > 0) {
        for (const { statement } of added) this.#tell(statement, from);
        // Nobody waits for the next comparison to hear who was shut out.
        const urgent = by === "gossip" ? [] : added.filter(({ statement }) => statement.kind === "revoke");
        await this.#commit(state, { news: urgent.map(({ bytes }) => bytes), from, secrets: false });
      }
      return { added: added.length, refused: refused.length };
    });
  }

  learnSecrets(items: readonly Uint8Array[], from: string): Promise<{ refused: number }> {
    return this.#turns.run(async () => {
      const state = this.#state;
      if (state === undefined) return { refused: 0 };
      let [news, refused] = [0, 0];
      for (const item of items) {
        try {
          if (state.secrets.add(decodeSecret(item))) news += 1;
        } catch (error) {
          if (!(error instanceof ProtocolError)) throw error;
          refused += 1;
          this.#parts.log.warn("secret refused", { from, reason: error.message });
        }
      }
      if (news > 0) {
        this.#parts.log.info("the cluster's secret was rotated", {
          from,
          epoch: state.secrets.all()[0]?.epoch,
        });
        await this.#commit(state, { news: [], from, secrets: true });
      }
      return { refused };
    });
  }

  async #admit(list: MemberList, host: string, { name, addresses }: Described): Promise<Uint8Array> {
    const nonce = randomBytes(16).toString("hex");
    const { cluster } = list;
    const signed = await this.#sign({ kind: "admit", cluster, by: this.self, host, nonce, name, addresses });
    const { refused } = list.add([signed.bytes]);
    if (!list.members().has(host)) {
      throw new NodeError("JOIN_REFUSED", {
        host: this.self,
        reason: refused[0] ?? "the member list is full",
      });
    }
    return signed.bytes;
  }

  #sign(statement: Statement): Promise<SignedStatement> {
    return signStatement(this.#parts.identity.privateKey, statement);
  }

  #needed(): State {
    if (this.#state === undefined) throw new NodeError("CLUSTER_NONE", {});
    return this.#state;
  }

  async #commit(state: State, change: ClusterChange): Promise<void> {
    const { list, secrets, invitations } = state;
    await writeClusterFile(this.#parts.file, {
      genesis: list.genesis,
      statements: list.statements(),
      secrets: [...secrets.all()],
      invitations: [...invitations],
    });
    this.#state = state;
    for (const listener of this.#listeners) listener(change);
  }

  #tell(statement: Statement, from: string): void {
    const { log } = this.#parts;
    if (statement.kind === "admit") {
      log.info("a host was admitted", {
        member: statement.host,
        name: statement.name,
        by: statement.by,
        from,
      });
    }
    if (statement.kind !== "revoke") return;
    const fields = { member: statement.host, by: statement.by, reason: statement.reason, from };
    if (statement.host === this.self)
      log.error("this host was revoked: nobody speaks to it any more", fields);
    else log.warn("a host was revoked", fields);
  }

  #now(): number {
    return this.#parts.clock.wallMs();
  }
}

export function isOpen({ usesLeft, expiresAtMs }: Invitation, nowMs: number): boolean {
  return usesLeft > 0 && nowMs < expiresAtMs;
}

/** Throws ProtocolError. */
function stateOf(given: Membership): { list: MemberList; secrets: SecretSet } {
  const list = new MemberList(given.genesis, statementCrypto);
  list.add(given.statements);
  return { list, secrets: new SecretSet(given.secrets) };
}
