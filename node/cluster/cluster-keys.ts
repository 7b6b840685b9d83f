/**
 * The key ring of a host: made of what its cluster is now, in the control process and, by a copy, in the data
 * process.
 *
 *   a cluster's secret   members, for everything but joining
 *   an invitation        whoever holds it and was not revoked, for joining alone
 *
 * A host without a cluster has neither: it lets nobody in and dials nobody.
 */

import { hexOf } from "../../protocol/members/statement.ts";
import type { Clock } from "../clock.ts";
import { type AdmissionKey, type KeyRing, keyIdOf } from "../network/key-ring.ts";
import type { Invitation } from "./cluster-file.ts";
import { type ClusterSecret, SecretSet } from "./secrets.ts";

export const JOIN_PROTOCOL = "/sojourn/cluster/join/1.0.0";
export const MEMBERS_PROTOCOL = "/sojourn/cluster/members/1.0.0";
export const SECRETS_PROTOCOL = "/sojourn/cluster/secrets/1.0.0";

/** Crosses to the data process: only what the structured clone copies. */
export type AdmissionSnapshot = {
  readonly members: readonly string[];
  readonly revoked: readonly { host: string; by: string; reason: string }[];
  readonly secrets: readonly ClusterSecret[];
  readonly invitations: readonly Invitation[];
};

type Kind = "member" | "invitation";
type Known = { key: AdmissionKey; kind: Kind };

export class ClusterKeys implements KeyRing {
  readonly #clock: Clock;
  #snapshot: AdmissionSnapshot;
  #members = new Set<string>();
  #revoked = new Map<string, string>();
  #secrets = new SecretSet();
  /** One object for each key as long as it is in use: a connection refers to the one that it was made under. */
  readonly #known = new Map<string, Known>();

  constructor(clock: Clock, snapshot: AdmissionSnapshot) {
    this.#clock = clock;
    this.#snapshot = snapshot;
    this.update(snapshot);
  }

  update(snapshot: AdmissionSnapshot): void {
    this.#snapshot = snapshot;
    this.#members = new Set(snapshot.members);
    this.#revoked = new Map(
      snapshot.revoked.map(({ host, by, reason }) => [host, `revoked by ${by}: ${reason}`]),
    );
    this.#secrets = new SecretSet(snapshot.secrets);
  }

  /** Whether the key is a cluster's secret: whoever has a connection under it is a member. */
  isMemberKey(key: AdmissionKey): boolean {
    return this.#kindOf(key) === "member";
  }

  offer(peer: string | undefined): readonly AdmissionKey[] {
    const mayCome = peer !== undefined && this.#members.has(peer) && !this.#revoked.has(peer);
    return mayCome ? this.#accepted() : [];
  }

  find(id: Uint8Array): AdmissionKey | undefined {
    const named = hexOf(id);
    const member = this.#accepted().find((key) => hexOf(key.id) === named);
    if (member !== undefined) return member;
    const now = this.#clock.wallMs();
    const invitation = this.#snapshot.invitations.find(
      ({ secret, usesLeft, expiresAtMs }) =>
        usesLeft > 0 && now < expiresAtMs && hexOf(keyIdOf(secret)) === named,
    );
    return invitation === undefined ? undefined : this.#keyOf(invitation.secret, "invitation");
  }

  refusal(peer: string, key: AdmissionKey): string | undefined {
    const revoked = this.#revoked.get(peer);
    if (revoked !== undefined) return revoked;
    switch (this.#kindOf(key)) {
      case "invitation":
        return undefined;
      case "member":
        return this.#members.has(peer) ? undefined : "not a member of the cluster";
      case undefined:
        return "a key of another cluster";
    }
  }

  #accepted(): AdmissionKey[] {
    return this.#secrets.accepted(this.#clock.wallMs()).map(({ secret }) => this.#keyOf(secret, "member"));
  }

  #keyOf(secret: Uint8Array, kind: "member" | "invitation"): AdmissionKey {
    const id = keyIdOf(secret);
    const name = hexOf(id);
    const known = this.#known.get(name);
    if (known !== undefined) return known.key;
    const allows =
      kind === "member"
        ? (protocol: string) => protocol !== JOIN_PROTOCOL
        : (protocol: string) => protocol === JOIN_PROTOCOL;
    const key = { id, secret, allows };
    this.#known.set(name, { key, kind });
    this.#forgetOld();
    return key;
  }

  #kindOf(key: AdmissionKey): Kind | undefined {
    const known = this.#known.get(hexOf(key.id));
    return known?.key === key ? known.kind : undefined;
  }

  /** A secret whose time is over opens nothing; connections made under it stay for as long as their peer may. */
  #forgetOld(): void {
    if (this.#known.size <= KNOWN_MAX) return;
    const oldest = this.#known.keys().next().value;
    if (oldest !== undefined) this.#known.delete(oldest);
  }
}

/** Above all secrets and invitations that may be open at once. */
const KNOWN_MAX = 2048;
