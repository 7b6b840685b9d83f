/** The control API's methods that are about who is alive, and about watching what changes. */

import type { ApiCall, ApiHandlers, MemberRow, WatchEvent } from "../control/api.ts";
import { NodeError } from "../errors.ts";
import type { Peers, PeerView } from "../peers/peers.ts";
import type { HostPlacements } from "../placement/host-placements.ts";
import { placedState } from "../placement/rows.ts";
import type { HostMembership, MemberView } from "./host-membership.ts";

export type MembershipApiParts = {
  self: string;
  hostName: string;
  peers: Peers;
  membership: HostMembership;
  placements: HostPlacements;
  addresses(): readonly string[];
  domainCount(): Promise<number>;
  freeBytes(): Promise<number>;
  stop(): void;
};

type Methods = "members" | "watch" | "leave";

export function membershipHandlers(parts: MembershipApiParts): Pick<ApiHandlers, Methods> {
  const { self, hostName, membership } = parts;
  return {
    members: () => memberRows(parts),
    watch: (_, call) => watch(parts, call),
    leave: async () => {
      const domains = await parts.domainCount();
      await membership.leave();
      parts.stop();
      return { host: self, hostName, domains };
    },
  };
}

/** This host first, then all that the list or membership knows. */
export async function memberRows(parts: MembershipApiParts): Promise<MemberRow[]> {
  const { self, hostName, peers, membership } = parts;
  const own: MemberRow = {
    host: self,
    hostName,
    self: true,
    state: "alive",
    addresses: parts.addresses(),
    domains: await parts.domainCount(),
    freeBytes: await parts.freeBytes(),
    incarnation: membership.incarnation,
    seenBy: hostName,
    ageSeconds: 0,
  };
  const views = new Map(membership.views().map((view) => [view.host, view]));
  return [own, ...peers.views().map((peer) => rowOf(parts, peer, views.get(peer.host)))];
}

function rowOf(parts: MembershipApiParts, peer: PeerView, view: MemberView | undefined): MemberRow {
  const { hostName, peers, self } = parts;
  const addresses = peer.address === "" ? [] : [peer.address];
  const common = { host: peer.host, hostName: peer.hostName, self: false, seenBy: hostName, addresses };
  if (view === undefined) return { ...common, state: "unknown", ageSeconds: 0 };
  const now = performance.now();
  const accusers = view.accusers.map((host) => (host === self ? hostName : peers.nameOf(host)));
  return {
    ...common,
    state: view.status,
    domains: view.domainCount,
    freeBytes: view.freeBytes,
    ...(view.rttMs === undefined ? {} : { roundTripMs: view.rttMs }),
    incarnation: view.incarnation,
    stateSeconds: (now - view.sinceMs) / 1000,
    ...(accusers.length === 0 ? {} : { accusers }),
    // Others may have vouched for it since; this is when this host heard it itself.
    ageSeconds: (now - (view.heardAtMs ?? view.sinceMs)) / 1000,
  };
}

/** Throws HOST_DEAD for one that a domain cannot be sent to now. True for one that may be dead. */
export function checkTarget({ membership }: MembershipApiParts, { host, hostName }: PeerView): boolean {
  const view = membership.view(host);
  if (view?.status === "dead" || view?.status === "left") {
    const seconds = Math.round((performance.now() - view.sinceMs) / 1000);
    throw new NodeError("HOST_DEAD", { host: hostName, status: view.status, seconds });
  }
  return view?.status === "suspect";
}

async function watch(
  parts: MembershipApiParts,
  { emit, signal }: ApiCall<"watch">,
): Promise<{ ended: true }> {
  const { membership, placements, peers } = parts;
  const at = (): string => new Date().toISOString();
  const forget = [
    membership.onChange(({ host, from, to }) => {
      if (from === to) return;
      const hostName = peers.nameOf(host);
      emit({
        ...{ kind: "member", at: at(), host, hostName },
        ...(from === undefined ? {} : { from }),
        ...(to === undefined ? {} : { to }),
      });
    }),
    placements.onChange((domain) => emit(domainEvent(parts, domain, at()))),
  ];
  try {
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
  } finally {
    for (const each of forget) each();
  }
  return { ended: true };
}

function domainEvent(parts: MembershipApiParts, domain: string, at: string): WatchEvent {
  const view = parts.placements.view(domain);
  if (view === undefined) return { kind: "domain", at, domain };
  const { claim, others } = view;
  const { name, host, hostName, generation } = claim;
  const conflict = others.map((other) => other.hostName);
  return {
    ...{ kind: "domain", at, domain, name, host, hostName, generation, state: placedState(parts, claim) },
    ...(conflict.length === 0 ? {} : { conflict }),
  };
}
