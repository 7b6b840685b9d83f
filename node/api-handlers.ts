/** The control API's methods over this host's parts: what a CLI asks, answered for people and programs. */

import { PROTOCOL_VERSION } from "../protocol/limits.ts";
import type { Metadata } from "../storage/metadata.ts";
import type { DomainRecord, HistoryRecord, ReplicaRecord } from "../storage/records.ts";
import { clusterHandlers } from "./cluster/api.ts";
import type { HostCluster } from "./cluster/host-cluster.ts";
import type {
  Api,
  ApiCall,
  ApiHandlers,
  DomainDetail,
  DomainRow,
  DomainRowState,
  HopReport,
  PlanRow,
  Progress,
  ReplicaRow,
} from "./control/api.ts";
import type { DataService, DomainLook, Probe } from "./data/data-service.ts";
import { occupiedBytes } from "./domains/copies.ts";
import { NodeError } from "./errors.ts";
import type { Log } from "./log.ts";
import { checkTarget, type MembershipApiParts, memberRows, membershipHandlers } from "./membership/api.ts";
import { quarrelEvents, revokedRows, withConflicts } from "./peers/member-rows.ts";
import type { Peers } from "./peers/peers.ts";
import { conflictOf, placedReplicas, placedState } from "./placement/rows.ts";
import { historyRows } from "./recovery/history-rows.ts";
import type { Recovery } from "./recovery/recovery.ts";
import { VERSION } from "./version.ts";

export type HandlerParts = MembershipApiParts & {
  cluster: HostCluster;
  self: string;
  hostName: string;
  dataDir: string;
  startedAtMs: number;
  metadata: Metadata;
  peers: Peers;
  recovery: Pick<Recovery, "recover" | "custody" | "knowCustody">;
  log: Log;
  /** The data process; replaced when it was restarted. */
  data(): Pick<DataService, keyof DataService>;
  addresses(): readonly string[];
  freeBytes(): Promise<number>;
  /** Listens to the progress of one domain's migration; returns how to stop. */
  onProgress(domain: string, listener: (progress: Progress) => void): () => void;
  stop(): void;
};

export function apiHandlers(parts: HandlerParts): ApiHandlers {
  const { metadata, self, hostName } = parts;
  const { watch, ...others } = membershipHandlers(parts);
  const done = (record: DomainRecord, state: DomainRowState) => ({
    domain: record.id,
    name: record.name,
    state,
  });
  return {
    info: async () => ({
      host: self,
      hostName,
      version: VERSION,
      protocolVersion: PROTOCOL_VERSION,
      pid: process.pid,
      startedAt: new Date(parts.startedAtMs).toISOString(),
      dataDir: parts.dataDir,
      ...(parts.cluster.cluster.id === undefined ? {} : { cluster: parts.cluster.cluster.id }),
      addresses: parts.addresses(),
      hypervisors: ["qemu", "wasm"],
      domains: (await metadata.domains.list()).filter(({ owner }) => owner === self).length,
    }),
    hosts: () => memberRows(parts),
    ...others,
    watch: (params, call) => {
      for (const event of quarrelEvents(parts)) call.emit(event);
      return watch(params, call);
    },
    members: async () => [...withConflicts(parts, await memberRows(parts)), ...revokedRows(parts)],
    ...clusterHandlers(parts),
    create: async (params) => done(await parts.data().create(params), "running"),
    start: async ({ domain }) => done(await parts.data().start(await here(parts, domain)), "running"),
    stop: async ({ domain }) => done(await parts.data().halt(await here(parts, domain)), "shutoff"),
    destroy: async ({ domain }) => done(await parts.data().destroy(await here(parts, domain)), "shutoff"),
    list: () => domainRows(parts),
    show: ({ domain }) => showDomain(parts, domain),
    plan: async ({ domain }) => plan(parts, await here(parts, domain)),
    migrate: (params, call) => migrate(parts, params, call),
    cancel: async ({ domain }) => parts.data().cancel(await here(parts, domain)),
    recover: ({ domain, adopt }) => parts.recovery.recover(domain, adopt === undefined ? {} : { adopt }),
    replicas: ({ domain }) => replicaRows(parts, domain),
    history: async ({ domain }) => {
      const nameOf = (host: string) => (host === self ? hostName : parts.peers.nameOf(host));
      return historyRows({ metadata, nameOf }, await parts.recovery.custody(domain));
    },
    custody: ({ domain }) => parts.recovery.custody(domain),
    verify: async ({ domain }) => parts.data().verify(await here(parts, domain)),
    "arm-fault": async ({ point, action }) => {
      await parts.data().armFault(action === "" ? point : `${point}:${action}`);
      return { armed: true };
    },
    "stop-daemon": () => {
      parts.stop();
      return { stopping: true };
    },
  };
}

async function migrate(
  parts: HandlerParts,
  { domain, to, options }: Api["migrate"]["params"],
  { emit, signal }: ApiCall<"migrate">,
): Promise<HopReport> {
  const id = await here(parts, domain);
  const host = targetOf(parts, to);
  const stopListening = parts.onProgress(id, emit);
  signal.addEventListener("abort", stopListening, { once: true });
  try {
    await parts.recovery.knowCustody(id);
    return await parts.data().migrate(id, { host: host.host, name: host.hostName }, options ?? {});
  } catch (error) {
    if ((error as { code?: string }).code !== "RPC_LOST") throw error;
    // Its successor takes the migration up from the journal; who asked has to look again.
    const reason = "the data process died; its successor goes on from the journal";
    throw new NodeError("MIGRATION_UNDECIDED", { domain, host: host.hostName, reason }, { cause: error });
  } finally {
    stopListening();
  }
}

/** Throws HOST_UNKNOWN, HOST_AMBIGUOUS, HOST_DEAD. Whoever may be dead is tried: the migration waits, or aborts. */
function targetOf(parts: HandlerParts, to: string): { host: string; hostName: string } {
  const { self, hostName, peers, log } = parts;
  if (to === hostName || to === self) return { host: self, hostName };
  const peer = peers.find(to);
  if (checkTarget(parts, peer))
    log.warn("the destination may be dead", { to: peer.host, name: peer.hostName });
  return peer;
}

/** The id of a domain that lives here. Throws DOMAIN_UNKNOWN, DOMAIN_ELSEWHERE with the host's name. */
async function here({ metadata, peers, placements, self }: HandlerParts, query: string): Promise<string> {
  const record = await metadata.domains.find(query);
  if (record?.owner === self) return record.id;
  if (record !== undefined) {
    throw new NodeError("DOMAIN_ELSEWHERE", { domain: record.name, host: peers.nameOf(record.owner) });
  }
  const placement = placements.find(query)?.claim;
  if (placement !== undefined) {
    throw new NodeError("DOMAIN_ELSEWHERE", { domain: placement.name, host: peers.nameOf(placement.host) });
  }
  throw new NodeError("DOMAIN_UNKNOWN", { query });
}

async function domainRows(parts: HandlerParts): Promise<DomainRow[]> {
  const { metadata, self } = parts;
  const known = await metadata.domains.list();
  const rows: DomainRow[] = [];
  for (const record of known) rows.push(await rowOf(parts, record, await look(parts, record)));
  const ids = new Set(known.map(({ id }) => id));
  for (const view of parts.placements.views()) {
    const { claim } = view;
    if (ids.has(claim.domain)) continue;
    rows.push({
      id: claim.domain,
      name: claim.name,
      state: placedState(parts, claim),
      host: claim.host,
      hostName: claim.host === self ? parts.hostName : claim.hostName,
      generation: claim.generation,
      memoryBytes: claim.memoryBytes,
      vbds: claim.vbds,
      replicas: placedReplicas(parts, claim),
      ...conflictOf(parts, view),
      seenBy: claim.hostName,
      ageSeconds: Math.max(0, (Date.now() - claim.timeMs) / 1000),
    });
  }
  return rows;
}

async function look(parts: HandlerParts, record: DomainRecord): Promise<DomainLook | undefined> {
  // Also a domain that was handed over may have frozen remains here, and a migration to finish.
  try {
    return await parts.data().look(record.id, { guest: false });
  } catch {
    return undefined;
  }
}

async function rowOf(
  parts: HandlerParts,
  record: DomainRecord,
  seen: DomainLook | undefined,
): Promise<DomainRow> {
  const { self, hostName, peers } = parts;
  const isMine = record.owner === self;
  const view = parts.placements.view(record.id);
  const placement = isMine ? undefined : view?.claim;
  const isPlaced = placement !== undefined && placement.generation >= record.generation;
  const host = isPlaced ? placement.host : record.owner;
  return {
    id: record.id,
    name: record.name,
    state: isMine
      ? ownState(record, seen)
      : awayState(seen, isPlaced ? placedState(parts, placement) : undefined),
    host,
    hostName: isMine ? hostName : peers.nameOf(host),
    generation: isPlaced ? placement.generation : record.generation,
    memoryBytes: record.memoryBytes,
    vbds: record.vbds,
    // Only the domain's host knows how far each is behind.
    replicas: isPlaced ? placedReplicas(parts, placement) : await replicasOf(parts, record),
    ...(seen?.outgoing === undefined ? {} : { migration: seen.outgoing }),
    ...(view === undefined ? {} : conflictOf(parts, view)),
    seenBy: isPlaced ? placement.hostName : hostName,
    ageSeconds: isPlaced ? Math.max(0, (Date.now() - placement.timeMs) / 1000) : 0,
  };
}

function ownState(record: DomainRecord, seen: DomainLook | undefined): DomainRowState {
  if (seen === undefined) return "unknown";
  if (seen.hypervisorState === "shutoff" && record.state === "crashed") return "crashed";
  return stateOfText(seen.hypervisorState);
}

function awayState(seen: DomainLook | undefined, placed: string | undefined): DomainRowState {
  // Handed over, and the other host has not said yet that it runs the domain.
  if (seen?.outgoing?.phase === "handing-over") return "undecided";
  return placed === undefined ? "unknown" : stateOfText(placed);
}

function stateOfText(text: string): DomainRowState {
  switch (text) {
    case "running":
    case "suspended":
    case "incoming":
    case "shutoff":
    case "crashed":
      return text;
    case "stopped":
      return "shutoff";
    case "prepared":
      return "undecided";
    default:
      return "unknown";
  }
}

/** Other copies than the one that the domain runs on, as far as this host knows. */
async function replicaRecords({ metadata }: HandlerParts, record: DomainRecord): Promise<ReplicaRecord[]> {
  const records = await metadata.replicas.list(record.id);
  return records.filter(({ generation, host }) => generation > 0 && host !== record.owner);
}

async function replicasOf(parts: HandlerParts, record: DomainRecord) {
  const { peers, self, hostName } = parts;
  const replicas = await replicaRecords(parts, record);
  const lacking =
    record.owner === self && replicas.length > 0
      ? await parts
          .data()
          .lacking(
            record.id,
            replicas.map(({ generation }) => generation),
          )
          .catch(() => [])
      : [];
  return replicas.map(({ host, generation, updatedAt }, index) => ({
    hostName: host === self ? hostName : peers.nameOf(host),
    generation,
    ageSeconds: Math.max(0, (Date.now() - updatedAt) / 1000),
    ...(lacking[index] === undefined ? {} : { dirtyBlocks: lacking[index] }),
  }));
}

async function showDomain(parts: HandlerParts, query: string): Promise<DomainDetail> {
  const { metadata, self, peers } = parts;
  const record = await metadata.domains.find(query);
  if (record === undefined) {
    const placement = (await domainRows(parts)).find(({ name, id }) => name === query || id === query);
    if (placement === undefined) throw new NodeError("DOMAIN_UNKNOWN", { query });
    const advice = `it is on ${placement.hostName}, as ${placement.seenBy} says; ask there for more`;
    return { ...placement, hypervisor: "unknown", advice };
  }
  const seen = await parts
    .data()
    .look(record.id, { guest: record.owner === self })
    .catch(() => undefined);
  const row = await rowOf(parts, record, seen);
  const vbds = await metadata.vbds.list(record.id);
  const history = await metadata.history.list(record.id);
  const lastHop = history.find(({ outcome }) => outcome === "completed");
  return {
    ...row,
    hypervisor: record.hypervisor,
    config: record.config,
    createdAt: new Date(record.createdAt).toISOString(),
    ...(seen?.detail === undefined ? {} : { stateDetail: seen.detail }),
    vbdFiles: vbds.map(({ name, path }) => ({ name, path, attachment: seen?.attachment ?? "closed" })),
    ...(seen?.guest === undefined ? {} : { guest: seen.guest }),
    ...(lastHop === undefined ? {} : { lastHop: JSON.parse(lastHop.figures) as HopReport }),
    advice:
      alarmOf(row, history[0]) ??
      adviceOf(row, { isMine: record.owner === self, seen, ownerName: peers.nameOf(record.owner) }),
  };
}

/** What nobody may overlook. */
function alarmOf({ conflict, name }: DomainRow, newest: HistoryRecord | undefined): string | undefined {
  if (conflict !== undefined) {
    const claims = conflict
      .map(({ hostName, generation }) => `${hostName} generation ${generation}`)
      .join(", ");
    return `CONFLICT: ${claims}; nobody's data is touched; \`sojourn recover ${name}\` says what can be done`;
  }
  if (newest?.outcome !== "fenced") return undefined;
  const { files } = JSON.parse(newest.figures) as { files: readonly string[] };
  return `FENCED: another host adopted it while this one had it; what it wrote here since is kept as ${files.join(", ")}`;
}

/** Where the domain's only right copy is, and what is safe to do now. */
function adviceOf(
  row: DomainRow,
  { isMine, seen, ownerName }: { isMine: boolean; seen: DomainLook | undefined; ownerName: string },
): string {
  if (row.state === "undecided" && !isMine) {
    return `it was handed over to ${ownerName}, which has not confirmed yet; it is frozen here and must not be started by hand`;
  }
  if (seen?.incoming === "prepared") {
    return "it waits here, suspended and whole, for its source to hand it over or to take it back; keep both hosts up";
  }
  if (seen?.incoming !== undefined && isMine) {
    return "it runs here and still fetches blocks from its source; keep both hosts up until that is over";
  }
  if (!isMine) return `it lives on ${ownerName}; what is here is a replica, kept for its way back`;
  if (row.migration !== undefined)
    return `it runs here, on its way to ${row.migration.toName}; cancelling is safe`;
  if (row.state === "running") return "it runs here, and the only right copy of its vbds is here";
  return `it is ${row.state} here, and the only right copy of its vbds is here; \`sojourn start\` runs it`;
}

async function plan(parts: HandlerParts, id: string): Promise<PlanRow[]> {
  const { metadata, peers } = parts;
  const record = await metadata.domains.get(id);
  if (record === undefined) throw new NodeError("DOMAIN_UNKNOWN", { query: id });
  const { name, hypervisor, memoryBytes, config, vbds, generation } = record;
  const files = await metadata.vbds.list(id);
  const candidate = {
    domain: { id, name, hypervisor, memoryBytes, config, vbds },
    generation,
    bytesNeeded: files.reduce((sum, { path }) => sum + occupiedBytes(path), 0),
  };
  const answers = await Promise.all(
    peers.views().map(async ({ host }): Promise<{ probe: Probe; reachable: boolean }> => {
      try {
        const asker = await peers.ask(host);
        const probe = await asker.probe(candidate, AbortSignal.timeout(30_000));
        return { probe, reachable: true };
      } catch (error) {
        return { probe: { refusal: (error as Error).message }, reachable: false };
      }
    }),
  );
  const plans = await parts.data().plan(
    id,
    answers.map(({ probe }) => probe),
  );
  return peers.views().map(({ host, hostName }, index) => {
    const { probe, reachable } = answers[index]!;
    const rows = plans[index] ?? [];
    return {
      host,
      hostName,
      reachable,
      vbds: rows,
      bytes: rows.reduce((sum, { bytes }) => sum + bytes, 0),
      ...("refusal" in probe ? { refusal: probe.refusal } : {}),
    };
  });
}

async function replicaRows(parts: HandlerParts, query: string | undefined): Promise<ReplicaRow[]> {
  const { metadata, peers, self, hostName } = parts;
  const all = await metadata.domains.list();
  const one = query === undefined ? undefined : await metadata.domains.find(query);
  if (query !== undefined && one === undefined) throw new NodeError("DOMAIN_UNKNOWN", { query });
  const rows: ReplicaRow[] = [];
  for (const record of one === undefined ? all : [one]) {
    const summaries = await replicasOf(parts, record);
    const replicas = await replicaRecords(parts, record);
    for (const [index, replica] of replicas.entries()) {
      const dirtyBlocks = summaries[index]?.dirtyBlocks;
      rows.push({
        domain: record.id,
        name: record.name,
        host: replica.host,
        hostName: replica.host === self ? hostName : peers.nameOf(replica.host),
        generation: replica.generation,
        ownerGeneration: record.generation,
        ...(dirtyBlocks === undefined ? {} : { dirtyBlocks, dirtyBytes: dirtyBlocks * 4096 }),
        seenBy: hostName,
        ageSeconds: Math.max(0, (Date.now() - replica.updatedAt) / 1000),
      });
    }
  }
  return rows;
}
