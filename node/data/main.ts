/**
 * The data process: everything that touches bulk bytes (DESIGN §3). NBD exports, the bulk network, the stores,
 * the migrations' machines. It is the control process's child, shares its key, and ends with it: what is
 * durable lies in the other's LevelDB and in files beside the vbds, and the guests outlive both.
 */

import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import type { Metadata } from "../../storage/metadata.ts";
import { ExportRegistry } from "../../storage/nbd/export-registry.ts";
import { NbdServer } from "../../storage/nbd/server.ts";
import { NbdAttachment } from "../attachment/nbd-attachment.ts";
import { QmpAttachment } from "../attachment/qmp/qmp-attachment.ts";
import { systemClock } from "../clock.ts";
import { type AdmissionSnapshot, ClusterKeys } from "../cluster/cluster-keys.ts";
import type { NodeConfig } from "../config.ts";
import { keyFile } from "../data-folder.ts";
import { HostDomains, type HostDomainsParts } from "../domains/host-domains.ts";
import { type HostPaths, hostPaths } from "../domains/host-paths.ts";
import { FaultPoints } from "../fault-points.ts";
import { Hooks } from "../hooks/hooks.ts";
import { hostSigner } from "../host-signer.ts";
import { DomainFolder } from "../hypervisor/domain-folder.ts";
import type { Hypervisor } from "../hypervisor/hypervisor.ts";
import { QemuHypervisor } from "../hypervisor/qemu/qemu-hypervisor.ts";
import { WasmHypervisor } from "../hypervisor/wasm/wasm-hypervisor.ts";
import { isXenHost, XenHypervisor } from "../hypervisor/xen/xen-hypervisor.ts";
import { type Identity, loadOrCreateIdentity } from "../identity.ts";
import { listenMultiaddr } from "../listen.ts";
import { createLog, type Log, stderrSink } from "../log.ts";
import { returnMemoryAtRest } from "../memory-return.ts";
import { Migrations } from "../migration/migrations.ts";
import { DialBackNetwork } from "../network/dial-back.ts";
import type { KeyRing } from "../network/key-ring.ts";
import { Libp2pNetwork } from "../network/libp2p-network.ts";
import { QmpConnections } from "../qmp/qmp-connections.ts";
import { DomainRecovery } from "../recovery/domain-recovery.ts";
import { parentPort, Rpc } from "../rpc/rpc.ts";
import { DataService, type DataServiceParts } from "./data-service.ts";

/** What the control process serves to this one. */
export type ControlSide = {
  metadata: Metadata;
  addressOf(host: string): Promise<string>;
  /** Has a host that cannot be dialled dial this one and present the nonce. */
  askToDial(host: string, nonce: string): Promise<void>;
  /** Whom the bulk network lets in; changes follow as notices. */
  admission(): AdmissionSnapshot | Promise<AdmissionSnapshot>;
};

export type DataReady = { addresses: readonly string[] };

/** A harvest costs the guest nothing that it could notice, and `plan` is as old as the last one at most. */
const HARVEST_EVERY_MS = 60_000;

async function main(): Promise<void> {
  const config = JSON.parse(process.env.SOJOURN_DATA_CONFIG ?? "{}") as NodeConfig;
  const log = createLog({ level: logLevel(), sink: stderrSink }).child({
    process: "data",
    host: config.name,
  });
  const paths = hostPaths(config.dataDir);
  mkdirSync(dirname(paths.nbdSocket), { recursive: true, mode: 0o700 });
  const { privateKey, hostId } = await loadOrCreateIdentity(keyFile(config.dataDir));

  const served: { service?: DataService } = {};
  const rpc = new Rpc(parentPort(), served);
  const control = rpc.remote<ControlSide>() as unknown as ControlSide;
  const { metadata } = control;

  const keys = new ClusterKeys(systemClock, await control.admission());
  const listening = bulkNetwork(config, { privateKey, log, keys });
  const ask = (host: string, nonce: string): Promise<void> => control.askToDial(host, nonce);
  const network = new DialBackNetwork({ network: listening, ask });
  rpc.onNotice<AdmissionSnapshot>("admission", (snapshot) => {
    keys.update(snapshot);
    listening.recheck();
  });
  const faults = FaultPoints.fromEnvironment(process.env, {
    enabled: config.faults,
    pidsToKill: () => [process.ppid],
    onFault: (fault) => log.warn("fault point fires", { point: fault.point, action: fault.action.type }),
  });
  const exports = new ExportRegistry();
  const nbd = new NbdServer({ exports, log });
  const adapters = adaptersOf(config, { paths, log });
  const changed = (domain: string): void => rpc.notify("changed", domain);
  const shared = {
    self: hostId,
    hostName: config.name,
    paths,
    metadata,
    clock: systemClock,
    log,
    faults,
    changed,
    network,
    sign: hostSigner(privateKey),
    hooks: new Hooks(log, { ...config.hooks, folder: config.hooks.folder ?? paths.hooks }),
  };
  const domains = new HostDomains({ ...shared, ...adapters, exports });
  const migrations = new Migrations({
    ...shared,
    domains,
    ...{ limits: config.migration, link: config.migration },
    addressOf: (host) => control.addressOf(host),
  });

  const parts: DataServiceParts = {
    ...shared,
    domains,
    migrations,
    recovery: new DomainRecovery({ ...shared, domains, migrations }),
    progress: (domain, progress) => rpc.notify("progress", { domain, progress }),
    stop: async () => {
      await migrations.stop();
      await domains.stopAll();
      await nbd.stop();
      await network.stop();
      process.disconnect?.();
    },
  };
  served.service = new DataService(parts);

  await nbd.listen({ unixPath: paths.nbdSocket });
  await start({ network, domains, migrations });
  rpc.notify("ready", { addresses: network.addresses() } satisfies DataReady);
}

/** Guests whose vbds are ours wait for their exports; what is restored needs the network; peers wait for both. */
async function start({
  network,
  domains,
  migrations,
}: Pick<DataServiceParts, "domains" | "migrations"> & { network: DialBackNetwork }): Promise<void> {
  await migrations.serve();
  await network.start();
  await domains.openOwned();
  await migrations.start();
}

/** Hypervisors and attachments: those of QEMU share its one connection. */
function adaptersOf(
  { qemu, xen }: NodeConfig,
  { paths, log }: { paths: HostPaths; log: Log },
): Pick<HostDomainsParts, "hypervisors" | "attach"> {
  const { runDir } = paths;
  const host = { ...qemu, kernelFolder: qemu.kernelFolder ?? paths.kernels };
  const qmp = new QmpConnections();
  const all: Hypervisor[] = [
    new WasmHypervisor({ runDir, log }),
    new QemuHypervisor({ runDir, log, host, qmp }),
  ];
  // Only where there is one: a host without it refuses a domain of Xen before anything has moved.
  if (isXenHost()) {
    const xenHost = { ...xen, kernelFolder: xen.kernelFolder ?? paths.kernels };
    all.push(new XenHypervisor({ runDir, log, host: xenHost }));
  }
  const hypervisors = new Map(all.map((hypervisor) => [hypervisor.kind, hypervisor]));
  return { hypervisors, attach: attachmentsOf({ paths, log, qmp }) };
}

/** QEMU can have a vbd itself; whoever else runs a domain reaches its vbds through our export. */
function attachmentsOf({
  paths,
  log,
  qmp,
}: {
  paths: HostPaths;
  log: Log;
  qmp: QmpConnections;
}): HostDomainsParts["attach"] {
  const { runDir, nbdSocket } = paths;
  return ({ id, hypervisor }, options) => {
    if (hypervisor !== "qemu") return NbdAttachment.open(options);
    return QmpAttachment.open({
      ...options,
      connections: qmp,
      qmpPath: new DomainFolder({ runDir, id }).controlPath,
      nbdSocketPath: nbdSocket,
      socketFolder: runDir,
      log: log.child({ domain: id }),
      harvestEveryMs: HARVEST_EVERY_MS,
    });
  };
}

function bulkNetwork(
  { data }: NodeConfig,
  { keys, ...parts }: { privateKey: Identity["privateKey"]; log: Log; keys: KeyRing },
): Libp2pNetwork {
  const announce = data.announce === undefined ? {} : { announce: data.announce };
  return new Libp2pNetwork(parts, {
    role: "data",
    keys,
    listen: [listenMultiaddr(data.listen)],
    ...announce,
  });
}

function logLevel(): "error" | "warn" | "info" | "debug" {
  const level = process.env.SOJOURN_LOG;
  return level === "error" || level === "warn" || level === "debug" ? level : "info";
}

// Without its other half this process can promise nothing: it ends, and the guests wait for the next one.
process.on("disconnect", () => process.exit(0));
process.on("SIGTERM", () => undefined);
process.on("SIGINT", () => undefined);

returnMemoryAtRest();
main().catch((error: unknown) => {
  const { code = "INTERNAL", message } = error as { code?: string; message: string };
  process.stderr.write(
    `${JSON.stringify({ level: "error", message: "the data process cannot start", code, reason: message, stack: (error as Error).stack })}\n`,
  );
  process.exit(1);
});
