import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ApiError } from "../../node/control/errors.ts";
import {
  EXIT_CODES,
  NODE_ERRORS,
  NodeError,
  type NodeErrorCode,
  type NodeErrorFacts,
  nodeErrorOf,
} from "../../node/errors.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import { MetadataError, type MetadataErrorDetail } from "../../storage/metadata-errors.ts";

/** Facts of every code: a code without an example here does not compile. */
const EXAMPLES: { [Code in NodeErrorCode]: NodeErrorFacts<Code> } = {
  USAGE: { reason: "one host is needed" },
  CONFIG_INVALID: { source: "/etc/config.json", issues: ["name: must be text", "peers: must be a list"] },
  SETUP_FOREIGN: { paths: ["/etc/xen/scripts/block-sojourn"] },
  XL_CONFIG: { file: "/etc/xen/web.cfg", problems: ["line 7: pci", "line 9: vfb"] },
  XL_AUTOSTART: { file: "/etc/xen/web.cfg", link: "/etc/xen/auto/web.cfg" },
  XL_RUNNING: { name: "web" },
  SETUP_IN_USE: { domains: ["3f2a"] },
  FAULTS_DISABLED: { spec: "source-frozen:kill" },
  DOMAIN_UNKNOWN: { query: "web" },
  DOMAIN_AMBIGUOUS: { query: "we", matches: ["web", "wet"] },
  DOMAIN_EXISTS: { name: "web", domain: "3f2a" },
  DOMAIN_ELSEWHERE: { domain: "web", host: "bravo" },
  DOMAIN_STATE: { domain: "web", state: "stopped", wanted: "running" },
  NOT_OWNER: { domain: "web", owner: "bravo", generation: 41 },
  OWNERSHIP_UNCERTAIN: { domain: "web", reason: "repaired" },
  HOST_UNKNOWN: { query: "charlie" },
  HOST_DEAD: { host: "beta", status: "dead", seconds: 12 },
  HOST_AMBIGUOUS: { query: "12D3", matches: ["12D3a", "12D3b"] },
  MIGRATION_UNKNOWN: { migration: "m-77" },
  MIGRATION_BUSY: { domain: "web", migration: "m-77" },
  MIGRATION_TO_SELF: { domain: "web", host: "alpha" },
  MIGRATION_CANCELLED: { domain: "web", host: "alpha", reason: "the operator" },
  MIGRATION_FAILED: { domain: "web", host: "alpha", reason: "a read error" },
  MIGRATION_REFUSED: {
    ...{ domain: "web", host: "alpha", to: "beta" },
    ...{ cause: "VBD_BUSY", reason: "root is in use by process 7" },
  },
  MIGRATION_UNFINISHED: { domain: "web", host: "bravo", reason: "the link is down" },
  MIGRATION_UNDECIDED: { domain: "web", host: "bravo", reason: "the link is down" },
  DESTINATION_FULL: { host: "bravo", neededBytes: 4097, freeBytes: 1023 },
  VBD_SIZE_MISMATCH: { vbd: "root", sizeBytes: 4097, foundBytes: 1023 },
  VBD_FORMAT: { path: "/srv/web.qcow2", found: "a qcow2 image of 10GiB, on top of base.qcow2" },
  VBD_RESIZED: { vbd: "disk0", sizeBytes: 4096, foundBytes: 8192 },
  VBD_BUSY: { vbd: "root", holder: "qemu-nbd 77" },
  REPLICA_MODIFIED: { domain: "web", host: "bravo", reason: "a newer mtime" },
  HYPERVISOR_UNSUPPORTED: { host: "bravo", hypervisor: "xen" },
  HYPERVISOR_FAILED: { domain: "web", reason: "xl said no" },
  PEER_UNREACHABLE: { host: "bravo", reason: "connection refused" },
  PEER_VERSION: { host: "bravo", ours: 41, theirs: 43 },
  PEER_REFUSED: { host: "bravo", reason: "a moon phase" },
  PEER_MISBEHAVED: { reason: "a frame too large" },
  CLUSTER_NONE: {},
  CLUSTER_ALREADY: { cluster: "0123456789abcdef", members: 41 },
  TOKEN_INVALID: { reason: "a part of it is missing" },
  JOIN_REFUSED: { host: "bravo", reason: "the token is used up" },
  CLUSTER_FILE_EXPOSED: { file: "/data/cluster.json", mode: "0644" },
  CLUSTER_FILE_CORRUPT: { file: "/data/cluster.json", reason: "empty" },
  DATA_FOLDER_LOCKED: { reason: "in use" },
  DATA_FOLDER_CORRUPT: { reason: "damaged" },
  DATA_FOLDER_VERSION: { reason: "newer" },
  DATA_FOLDER_UNAVAILABLE: { reason: "read-only" },
  RECORD_CORRUPT: { reason: "domain/web" },
  HOST_KEY_EXPOSED: { file: "/data/host.key", mode: "0644" },
  HOST_KEY_CORRUPT: { file: "/data/host.key", reason: "empty" },
  FAULT_INJECTED: { point: "source-frozen" },
  STOPPING: {},
  INTERNAL: { reason: "a null" },
};
const CODES = Object.keys(NODE_ERRORS) as NodeErrorCode[];

test.each(CODES)("%s names every fact in one line, has a meaning and a known exit code", (code) => {
  const facts: Record<string, unknown> = EXAMPLES[code];
  const error = new NodeError(code, facts as never);
  for (const fact of Object.values(facts).flat()) {
    expect(`${error.message} ${error.remedy}`).toContain(String(fact));
  }
  expect(error.message).not.toMatch(/undefined|\[object|\n/);
  expect(NODE_ERRORS[code].meaning).toMatch(/^[A-Z].{10,}\.$/);
  expect(Object.keys(EXIT_CODES)).toContain(String(error.exitCode));
  expect(error.exitCode).not.toBe(0);
});

test.each(CODES.filter((code) => !code.startsWith("DATA_FOLDER_")))("%s says what to do", (code) => {
  const error = new NodeError(code, EXAMPLES[code] as never);
  expect(error.remedy?.length).toBeGreaterThan(10);
});

test("an error crosses the control socket with its sentence, its remedy and its exit code", () => {
  const sent = JSON.parse(
    JSON.stringify(new NodeError("DOMAIN_ELSEWHERE", { domain: "web", host: "bravo" }).toBody()),
  );
  expect(sent).toEqual({
    code: "DOMAIN_ELSEWHERE",
    message: "web is on bravo",
    remedy: "run this on bravo",
    detail: { domain: "web", host: "bravo" },
    exitCode: 1,
  });
  expect(new ApiError(sent)).toMatchObject({ code: "DOMAIN_ELSEWHERE", exitCode: 1 });
});

const STORAGE: {
  [Code in MetadataErrorDetail["code"]]: [
    Omit<Extract<MetadataErrorDetail, { code: Code }>, "code">,
    NodeErrorCode,
  ];
} = {
  METADATA_LOCKED: [{ folder: "/data" }, "DATA_FOLDER_LOCKED"],
  METADATA_CORRUPT: [{ folder: "/data", reason: "bad" }, "DATA_FOLDER_CORRUPT"],
  METADATA_RECORDS_DROPPED: [{ folder: "/data", droppedBytes: 7 }, "DATA_FOLDER_CORRUPT"],
  METADATA_UNAVAILABLE: [{ folder: "/data", reason: "EACCES" }, "DATA_FOLDER_UNAVAILABLE"],
  METADATA_SCHEMA_NEWER: [{ folder: "/data", found: 9, known: 1 }, "DATA_FOLDER_VERSION"],
  METADATA_FOREIGN: [{ folder: "/data" }, "DATA_FOLDER_VERSION"],
  METADATA_RECORD_INVALID: [{ key: "domain/web", reason: "bad" }, "RECORD_CORRUPT"],
  METADATA_DOMAIN_AMBIGUOUS: [{ query: "w", matches: ["web"] }, "DOMAIN_AMBIGUOUS"],
  METADATA_GENERATION_LOWERED: [{ domain: "web", stored: 3, offered: 2 }, "INTERNAL"],
  METADATA_OWNER_CHANGED: [{ domain: "web", generation: 3, stored: "a", offered: "b" }, "INTERNAL"],
  METADATA_CLOSED: [{}, "STOPPING"],
};

test.each(Object.entries(STORAGE))("%s of the storage is told as one of ours", (code, [facts, expected]) => {
  const cause = new MetadataError({ code, ...facts } as MetadataErrorDetail);
  const told = nodeErrorOf(cause);
  expect(told).toMatchObject({ code: expected, cause });
  if (expected.startsWith("DATA_FOLDER")) expect(told.message).toBe(cause.message);
});

test("an error is told by its code alone: its class may be lost between processes", () => {
  const copy = Object.assign(new Error("web is …"), {
    code: "MIGRATION_BUSY",
    detail: { domain: "web", migration: "m" },
  });
  expect(nodeErrorOf(copy)).toMatchObject({
    code: "MIGRATION_BUSY",
    message: "web is being migrated already (m)",
  });
  const protocol = new ProtocolError({ code: "PROTOCOL_UNKNOWN_MESSAGE", type: 77 });
  expect(nodeErrorOf(protocol)).toMatchObject({ code: "PEER_MISBEHAVED", cause: protocol });
  expect(nodeErrorOf(new RangeError("off by one"))).toMatchObject({
    code: "INTERNAL",
    detail: { reason: "off by one" },
  });
  expect(nodeErrorOf("a string")).toMatchObject({ code: "INTERNAL", detail: { reason: "a string" } });
  const own = new NodeError("STOPPING", {});
  expect(nodeErrorOf(own)).toBe(own);
});

test("no two groups of the table share a code", () => {
  const source = readFileSync(join(import.meta.dirname, "../../node/errors.ts"), "utf8");
  const defined = source
    .matchAll(/^ {2}([A-Z_]+): entry</gm)
    .map((match) => match[1])
    .toArray();
  expect(defined.toSorted()).toEqual(CODES.toSorted());
});
