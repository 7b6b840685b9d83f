/**
 * The daemon's composition root: builds the control process's parts, starts them in order, stops them in
 * reverse. The control process holds the LevelDB, answers the CLI and the other hosts; its child, the data
 * process, moves bytes (DESIGN §3), so that no disk on the move delays an answer.
 */

import { mkdirSync } from "node:fs";
import { PROTOCOL_VERSION } from "../protocol/limits.ts";
import type { HostDescription } from "../protocol/membership/messages.ts";
import { LevelMetadata } from "../storage/metadata.ts";
import { apiHandlers } from "./api-handlers.ts";
import { systemClock } from "./clock.ts";
import { HostCluster } from "./cluster/host-cluster.ts";
import { reachable } from "./cluster/reachable.ts";
import type { NodeConfig } from "./config.ts";
import type { Progress } from "./control/api.ts";
import { ControlServer } from "./control/server.ts";
import { DataProcess } from "./data/data-process.ts";
import { keyFile } from "./data-folder.ts";
import { freeBytesOf, hostPaths } from "./domains/host-paths.ts";
import { nodeErrorOf } from "./errors.ts";
import { HostGossip } from "./gossip.ts";
import { type Identity, loadOrCreateIdentity } from "./identity.ts";
import { listenMultiaddr } from "./listen.ts";
import { createLog, type Log, type LogLevel, stderrSink } from "./log.ts";
import { returnMemoryAtRest } from "./memory-return.ts";
import type { KeyRing } from "./network/key-ring.ts";
import { Libp2pNetwork } from "./network/libp2p-network.ts";
import { OffenceLog } from "./offence-log.ts";
import { answerQuestions, type HostAnswers, type HostFacts } from "./peers/host-questions.ts";
import { Recovery } from "./recovery/recovery.ts";
import { VERSION } from "./version.ts";

/** Resolves when the daemon has stopped: by a signal, or because it was asked to. */
export async function runDaemon(config: NodeConfig): Promise<void> {
  const level = (process.env.SOJOURN_LOG as LogLevel | undefined) ?? "info";
  const log = createLog({ level, sink: stderrSink }).child({ process: "control", host: config.name });
  const paths = hostPaths(config.dataDir);
  mkdirSync(config.dataDir, { recursive: true, mode: 0o700 });
  const identity = await loadOrCreateIdentity(keyFile(config.dataDir));
  const { privateKey, hostId } = identity;
  const metadata = await LevelMetadata.open({ folder: paths.metadata }).catch((error: unknown) => {
    throw nodeErrorOf(error);
  });

  const clock = systemClock;
  const hostParts = { dataDir: config.dataDir, hostName: config.name };
  const cluster = await HostCluster.load({ ...hostParts, identity, clock, log });
  const onFound: OnFound = (peer, addresses) => gossip.redial.found(peer, addresses);
  const network = controlNetwork(config, { privateKey, log, keys: cluster.keys, onFound });
  const freeBytes = (): Promise<number> => freeBytesOf(paths);
  const domainCount = async (): Promise<number> =>
    (await metadata.domains.list()).filter(({ owner }) => owner === hostId).length;
  const describe = async (): Promise<HostDescription> => ({
    name: config.name,
    addresses: reachable(network.addresses()),
    freeBytes: await freeBytes(),
    domainCount: await domainCount(),
  });
  const dialBulk = (address: string, nonce: string): Promise<void> => data.service().dialBack(address, nonce);
  const gossip = new HostGossip({ identity, network, metadata, clock, log, describe, dialBulk }, config);
  const { peers, placements, membership } = gossip;
  const watchers = new ProgressWatchers();
  const stopped = Promise.withResolvers<void>();
  const data = new DataProcess(
    {
      ...{ log, metadata, admission: () => cluster.snapshot() },
      addressOf: (host) => peers.dataAddressOf(host),
      askToDial: (host, nonce) => gossip.dialBack.askForBulk(host, nonce),
    },
    {
      config,
      onChanged: (domain) => {
        placements.update(domain).catch((error) => log.error("placement", { domain, error }));
        void membership.announce();
      },
      onProgress: (domain, progress) => watchers.tell(domain, progress),
      onFailure: (error) => stopped.reject(error),
    },
  );
  placements.measureWith(async (domain, generations) => data.service().lacking(domain, generations));
  const recovery = Recovery.over(gossip, {
    ...hostParts,
    identity,
    metadata,
    log,
    data: () => data.service(),
  });

  const facts = async (): Promise<HostFacts> => ({
    host: hostId,
    hostName: config.name,
    version: VERSION,
    protocolVersion: PROTOCOL_VERSION,
    dataAddresses: [...data.addresses()],
    domains: await domainCount(),
    freeBytes: await freeBytes(),
  });
  const api = new ControlServer(
    {
      handlers: apiHandlers({
        ...hostParts,
        self: hostId,
        cluster,
        startedAtMs: clock.wallMs(),
        metadata,
        ...{ peers, membership, placements, recovery },
        data: () => data.service(),
        addresses: () => network.addresses(),
        ...{ freeBytes, domainCount, log },
        onProgress: (domain, listener) => watchers.add(domain, listener),
        stop: () => stopped.resolve(),
      }),
      log,
    },
    { socketPath: config.api.socketPath },
  );

  // In this order: who may be asked must be able to answer.
  await runUntil(stopped, [
    { start: async () => undefined, stop: () => metadata.close() },
    { start: () => data.start(), stop: () => data.stop() },
    {
      start: async () => {
        await gossip.serve();
        await cluster.attach({ network, peers, data });
      },
      stop: () => cluster.stop(),
    },
    { start: () => network.start(), stop: () => network.stop() },
    {
      start: async () => {
        const probe: HostAnswers["probe"] = (peer, { domain, generation, bytesNeeded }) =>
          data.service().probe({ domain, generation, bytesNeeded, source: peer });
        await answerQuestions(network, { facts, probe, dialBack: gossip.dialBack.answer });
        await cluster.announce();
        await gossip.start();
      },
      stop: () => gossip.stop(),
    },
    { start: () => recovery.start(network), stop: () => recovery.stop() },
    {
      start: async () => {
        await api.start();
        log.info("daemon is up", { hostId, control: network.addresses(), data: data.addresses() });
      },
      stop: () => api.stop(),
    },
  ]);
  log.info("daemon has stopped");
}

type Part = { start(): Promise<unknown>; stop(): Promise<void> };

/** Starts the parts in order, and stops in reverse those that were begun, also when one of them cannot start. */
async function runUntil(stopped: PromiseWithResolvers<void>, parts: readonly Part[]): Promise<void> {
  const onSignal = (): void => stopped.resolve();
  process.once("SIGTERM", onSignal);
  process.once("SIGINT", onSignal);
  const running: Part[] = [];
  try {
    for (const part of parts) {
      await part.start();
      running.push(part);
    }
    returnMemoryAtRest();
    await stopped.promise;
  } finally {
    process.off("SIGTERM", onSignal);
    process.off("SIGINT", onSignal);
    for (const part of running.reverse()) await part.stop();
  }
}

function controlNetwork(
  { control: { listen, announce }, discovery }: NodeConfig,
  { keys, onFound, ...parts }: ControlNetworkParts,
): Libp2pNetwork {
  const offences = new OffenceLog(parts.log, "gossip");
  return new Libp2pNetwork(parts, {
    role: "control",
    keys,
    listen: [listenMultiaddr(listen)],
    gossip: { onOffence: (peer, kind, detail) => offences.note(peer, kind, detail) },
    ...(announce === undefined ? {} : { announce }),
    ...(discovery.mdns ? { mdns: { onFound } } : {}),
  });
}

type ControlNetworkParts = {
  privateKey: Identity["privateKey"];
  log: Log;
  keys: KeyRing;
  onFound: OnFound;
};
/** Somebody says on the local network where the peer is. */
type OnFound = (peer: string, addresses: readonly string[]) => void;

/** Who watches which domain's migration. */
class ProgressWatchers {
  readonly #listeners = new Map<string, Set<(progress: Progress) => void>>();

  /** Returns how to stop. */
  add(domain: string, listener: (progress: Progress) => void): () => void {
    const all = this.#listeners.get(domain) ?? new Set();
    this.#listeners.set(domain, all.add(listener));
    return () => all.delete(listener);
  }

  tell(domain: string, progress: Progress): void {
    for (const listener of this.#listeners.get(domain) ?? []) listener(progress);
  }
}
