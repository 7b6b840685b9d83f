/** One of each thing that a daemon answers, as tests show them to clients. */

import type {
  DomainDetail,
  DomainRow,
  HistoryRow,
  HopReport,
  HostInfo,
  HostRow,
  PlanRow,
  Progress,
  ReplicaRow,
} from "../../../node/control/api.ts";

const MIB = 1 << 20;

export const hostInfo: HostInfo = {
  host: "12D3KooWAlpha",
  hostName: "alpha",
  version: "0.1.0",
  protocolVersion: 1,
  pid: 4711,
  startedAt: "2026-01-02T03:04:05Z",
  dataDir: "/srv/sojourn",
  addresses: ["/ip4/127.0.0.1/tcp/7000/p2p/12D3KooWAlpha"],
  hypervisors: ["wasm"],
  domains: 1,
};

export const hostRows: readonly HostRow[] = [
  {
    host: "12D3KooWAlpha",
    hostName: "alpha",
    self: true,
    state: "alive",
    addresses: ["/ip4/127.0.0.1/tcp/7000/p2p/12D3KooWAlpha"],
    domains: 1,
    freeBytes: 512 * MIB,
    seenBy: "alpha",
    ageSeconds: 0,
  },
  {
    host: "12D3KooWBeta",
    hostName: "beta",
    self: false,
    state: "suspect",
    addresses: [],
    roundTripMs: 1.5,
    seenBy: "alpha",
    ageSeconds: 12,
  },
];

export const progress: Progress = {
  phase: "pre-copy",
  iteration: 1,
  sentBytes: 25 * MIB,
  totalBytes: 100 * MIB,
  memoryBytes: 0,
  rateBytesPerSecond: 50 * MIB,
  dirtyRateBytesPerSecond: MIB,
  remainingBlocks: 19_200,
  etaSeconds: 1.5,
  connected: true,
};

export const hopReport: HopReport = {
  migration: "0b8f6f0c-6f0e-4a55-9a3c-1c2f7e0d9b11",
  domain: "web",
  from: "alpha",
  to: "beta",
  generation: 2,
  rung: "bitmaps",
  reason: "beta holds generation 1",
  diskBytesSent: 12 * MIB,
  blocksChanged: 3072,
  blocksResent: 17,
  bytesAllocated: 2048 * MIB,
  memoryBytesSent: 64 * MIB,
  downtimeMs: 38,
  disruptionMs: 120,
  totalMs: 2400,
  pushed: 80,
  pulled: 3,
  superseded: 1,
  writeShare: 1,
  blocksLeft: 0,
  iterations: 3,
  verified: true,
};

export const domainRow: DomainRow = {
  id: "6f0e0b8f-4a55-4c2f-9a3c-7e0d9b110b8f",
  name: "web",
  state: "running",
  host: "12D3KooWAlpha",
  hostName: "alpha",
  generation: 3,
  memoryBytes: 64 * MIB,
  vbds: [
    { name: "root", sizeBytes: 4096 * MIB },
    { name: "data", sizeBytes: 512 * MIB },
  ],
  replicas: [{ hostName: "beta", generation: 2, dirtyBlocks: 256 }],
  seenBy: "alpha",
  ageSeconds: 0,
};

export const migratingRow: DomainRow = {
  ...domainRow,
  id: "7e0d9b11-4a55-4c2f-9a3c-6f0e0b8f0b8f",
  name: "database",
  replicas: [],
  migration: { ...progress, migration: hopReport.migration, fromName: "alpha", toName: "beta" },
  seenBy: "beta",
  ageSeconds: 3,
};

export const domainDetail: DomainDetail = {
  ...domainRow,
  hypervisor: "wasm",
  vbdFiles: [{ name: "root", path: "/srv/root.img", attachment: "nbd", bytesAllocated: 100 * MIB }],
  guest: { requests: 12 },
  lastHop: hopReport,
  advice: "web runs on alpha; beta's replica of generation 2 may be kept or dropped.",
};

export const planRows: readonly PlanRow[] = [
  {
    host: "12D3KooWBeta",
    hostName: "beta",
    reachable: true,
    vbds: [
      { name: "root", rung: "bitmaps", reason: "beta holds generation 2", blocks: 256, bytes: MIB },
      {
        name: "data",
        rung: "hashes",
        reason: "beta's copy was written by a stranger",
        blocks: 10,
        bytes: 40_960,
      },
    ],
    bytes: MIB + 40_960,
  },
  { host: "12D3KooWGamma", hostName: "gamma", reachable: false, vbds: [], bytes: 0 },
  {
    host: "12D3KooWDelta",
    hostName: "delta",
    reachable: true,
    vbds: [],
    bytes: 0,
    refusal: "no hypervisor wasm there",
  },
];

export const replicaRows: readonly ReplicaRow[] = [
  {
    domain: domainRow.id,
    name: "web",
    host: "12D3KooWBeta",
    hostName: "beta",
    generation: 2,
    ownerGeneration: 3,
    dirtyBytes: MIB,
    seenBy: "alpha",
    ageSeconds: 0,
  },
];

export const historyRows: readonly HistoryRow[] = [
  {
    generation: 1,
    host: "12D3KooWAlpha",
    hostName: "alpha",
    startedAt: "2026-01-02T03:04:05Z",
    blocksWritten: 512,
  },
  {
    generation: 2,
    host: "12D3KooWBeta",
    hostName: "beta",
    startedAt: "2026-01-02T04:04:05Z",
    hop: hopReport,
  },
];
