import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { generateKeyPairFromSeed } from "@libp2p/crypto/keys";
import { peerIdFromPrivateKey } from "@libp2p/peer-id";
import { Command } from "commander";
import { expect, test } from "vitest";
import { z } from "zod";
import { NodeConfigSchema, parseConfig, readConfigFile } from "../../node/config.ts";
import { applyFlags, configReference, flagsOf, optionsOf } from "../../node/config-flags.ts";
import { listenMultiaddr, parseListen } from "../../node/listen.ts";

const HOST_A = peerIdFromPrivateKey(
  await generateKeyPairFromSeed("Ed25519", new Uint8Array(32).fill(1)),
).toString();
const at = (port: number, host: string) => `/ip4/10.0.0.5/tcp/${port}/p2p/${host}`;

function issuesOf(value: unknown): readonly string[] {
  try {
    parseConfig(value, "test");
    return [];
  } catch (error) {
    expect(error).toMatchObject({ code: "CONFIG_INVALID", exitCode: 2 });
    return (error as { detail: { issues: string[] } }).detail.issues;
  }
}

test("an empty configuration is whole: every default is there", () => {
  const config = parseConfig({ dataDir: "/data" }, "test");
  expect(config).toMatchObject({
    name: hostname(),
    control: { listen: "127.0.0.1:4701" },
    data: { listen: "127.0.0.1:4702" },
    api: { socketPath: "/data/api.sock" },
    migration: {
      iterationsMax: 30,
      totalSentFactorMax: 3,
      freezeTimeoutMs: 10_000,
      hotSendsMax: 3,
      writeSlowdownMax: 0,
      stallTimeoutMs: 15_000,
      reconnectDelayMs: { min: 200, max: 5_000 },
    },
    wasm: { memoryMaxBytes: 2 ** 30 },
    faults: false,
  });
  expect(config.migration).not.toHaveProperty("bandwidthMaxBytesPerSecond");
});

test("one value of a section leaves the section's other defaults", () => {
  const config = parseConfig(
    { migration: { reconnectDelayMs: { max: 9_000 }, bandwidthMaxBytesPerSecond: "64MiB" } },
    "test",
  );
  expect(config.migration).toMatchObject({
    iterationsMax: 30,
    reconnectDelayMs: { min: 200, max: 9_000 },
    bandwidthMaxBytesPerSecond: 64 << 20,
  });
});

test("a list of peers, as there was one once, is refused with what takes its place", () => {
  expect(issuesOf({ peers: [{ control: at(4701, HOST_A) }], colour: "red" })).toEqual([
    expect.stringMatching(/^peers: .*delete this setting.*sojourn invite.*sojourn join TOKEN/),
    "configuration: there is no setting colour",
  ]);
  expect(issuesOf({ discovery: { peers: [] } })).toEqual([expect.stringMatching(/^discovery: .*"peers"/)]);
});

test.each<[string, unknown, RegExp]>([
  ["an unknown key", { colour: "red" }, /^configuration: .*colour/],
  ["an unknown key of a section", { migration: { iterationMax: 3 } }, /^migration: .*iterationMax/],
  ["a number out of range", { migration: { iterationsMax: 0 } }, /^migration\.iterationsMax: /],
  ["text for a number", { migration: { iterationsMax: "30" } }, /^migration\.iterationsMax: /],
  ["a size that is none", { wasm: { memoryMaxBytes: "much" } }, /^wasm\.memoryMaxBytes: .*64MiB/],
  ["a size below one", { wasm: { memoryMaxBytes: -5 } }, /^wasm\.memoryMaxBytes: .*64MiB/],
  ["a name to listen on", { control: { listen: "localhost:1" } }, /^control\.listen: .*IP address/],
  ["a port beyond the last", { data: { listen: "127.0.0.1:65536" } }, /^data\.listen: /],
  [
    "an address that is no multiaddr",
    { control: { announce: "10.0.0.5:4701" } },
    /^control\.announce\.0: .*multiaddr/,
  ],
  [
    "a seed's address without its id",
    { discovery: { seeds: ["/ip4/10.0.0.5/tcp/1"] } },
    /^discovery\.seeds\.0: .*\/p2p\//,
  ],
  [
    "both listeners on one port",
    { control: { listen: "127.0.0.1:5" }, data: { listen: "127.0.0.1:5" } },
    /^data\.listen: .*control\.listen/,
  ],
  [
    "a least delay above the most",
    { migration: { reconnectDelayMs: { min: 900, max: 800 } } },
    /^migration\.reconnectDelayMs\.min: .*reconnectDelayMs\.max/,
  ],
  [
    "a stall timeout within the wait before a dial",
    { migration: { stallTimeoutMs: 90 } },
    /^migration\.stallTimeoutMs: .*reconnectDelayMs/,
  ],
  ["a data folder too deep for a socket", { dataDir: `/${"d".repeat(120)}` }, /^dataDir: .*107/],
  ["a socket path too long", { api: { socketPath: `/${"d".repeat(120)}` } }, /^api\.socketPath: .*107/],
  ["a list", [], /^configuration: /],
])("%s is refused with its path", (_, value, issue) => {
  expect(issuesOf(value)).toEqual([expect.stringMatching(issue)]);
});

test("port 0 may be asked for twice", () => {
  expect(issuesOf({ control: { listen: "127.0.0.1:0" }, data: { listen: "127.0.0.1:0" } })).toEqual([]);
});

test("every option has a description, and every default a reason", () => {
  const options = optionsOf(NodeConfigSchema);
  expect(options.length).toBeGreaterThan(15);
  for (const { path, description, defaultValue, reason } of options) {
    expect(description, path.join(".")).not.toBe("");
    if (defaultValue !== undefined) expect(reason?.length, path.join(".")).toBeGreaterThan(10);
  }
});

test("the reference names every option with its default and the reason", () => {
  const text = configReference(NodeConfigSchema);
  expect(text).toContain(
    "migration.iterationsMax\n    pre-copy iterations before the domain is frozen whatever is left\n    default 30: as Xen",
  );
  for (const { path } of optionsOf(NodeConfigSchema)) expect(text).toContain(`${path.join(".")}\n`);
});

/** What the daemon sees of a command line. */
function parsedWith(args: readonly string[], file?: unknown) {
  const command = new Command().exitOverride().configureOutput({ writeErr() {} });
  for (const option of flagsOf(NodeConfigSchema)) command.addOption(option);
  command.parse(args, { from: "user" });
  return parseConfig(applyFlags(NodeConfigSchema, file, command.opts()), "the command line");
}

test("every option has a flag, and no two the same", () => {
  const flags = flagsOf(NodeConfigSchema).map(({ long }) => long);
  expect(flags).toEqual(expect.arrayContaining(["--name", "--migration-reconnect-delay-ms-min", "--faults"]));
  expect(new Set(flags).size).toBe(flags.length);
});

test("flags go over the file, and the file over the defaults", () => {
  const file = { name: "from-file", migration: { iterationsMax: 7, hotSendsMax: 2 }, dataDir: "/data" };
  const config = parsedWith(
    [
      "--migration-iterations-max",
      "9",
      "--wasm-memory-max-bytes",
      "2GiB",
      "--faults",
      "--discovery-seeds",
      JSON.stringify([at(1, HOST_A)]),
    ],
    file,
  );
  expect(config).toMatchObject({ name: "from-file", faults: true, wasm: { memoryMaxBytes: 2 ** 31 } });
  expect(config.discovery.seeds).toEqual([at(1, HOST_A)]);
  expect(config.migration).toMatchObject({ iterationsMax: 9, hotSendsMax: 2, totalSentFactorMax: 3 });
  expect(file.migration.iterationsMax).toBe(7);
});

test("no flags and no file are the defaults; no flags leave the file as it is", () => {
  expect(parsedWith([]).migration.iterationsMax).toBe(30);
  expect(parsedWith([], { name: "x" }).name).toBe("x");
});

test("a flag's mistake, and a file's that a flag cannot mend, are refused with their paths", () => {
  const flags = { migrationIterationsMax: "many", discoverySeeds: "[" };
  expect(issuesOf(applyFlags(NodeConfigSchema, {}, flags))).toEqual([
    expect.stringMatching(/^discovery\.seeds: /),
    expect.stringMatching(/^migration\.iterationsMax: /),
  ]);
  expect(issuesOf(applyFlags(NodeConfigSchema, { migration: 5 }, { migrationIterationsMax: "3" }))).toEqual([
    expect.stringMatching(/^migration: /),
  ]);
  expect(issuesOf(applyFlags(NodeConfigSchema, [], { name: "x" }))).toHaveLength(1);
});

test("the flags' helper knows nothing of this schema", () => {
  const schema = z.strictObject({
    deepSection: z.strictObject({ someText: z.string().default("a") }).prefault({}),
  });
  expect(optionsOf(schema)).toEqual([
    {
      path: ["deepSection", "someText"],
      kind: "text",
      flag: "--deep-section-some-text <text>",
      description: "",
      defaultValue: "a",
      reason: undefined,
    },
  ]);
});

test("a configuration file is JSON with lines of comments; one that is not there is no mistake, one that is not JSON is", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sojourn-config-"));
  const file = join(folder, "config.json");
  expect(await readConfigFile(file)).toBeUndefined();
  await writeFile(file, '{"name": "a"}');
  expect(await readConfigFile(file)).toEqual({ name: "a" });
  await writeFile(file, '// this host\n{\n  // as people call it\n  "name": "a // b"\n}\n// the end\n');
  expect(await readConfigFile(file)).toEqual({ name: "a // b" });
  await writeFile(file, "{name: a}");
  await expect(readConfigFile(file)).rejects.toMatchObject({
    code: "CONFIG_INVALID",
    message: expect.stringContaining(file),
  });
  await rm(folder, { recursive: true });
});

test("addresses to announce are one, several, or none at all", () => {
  const announced = (announce: unknown) => parseConfig({ control: { announce } }, "test").control.announce;
  const [one, other] = ["/ip4/10.0.0.5/tcp/4701", "/ip4/192.0.2.5/tcp/4701"];
  expect(announced(one)).toEqual([one]);
  expect(announced(`${one},${other}`)).toEqual([one, other]);
  expect(announced([one, other])).toEqual([one, other]);
  expect(announced("none")).toEqual([]);
  expect(parseConfig({}, "test").control.announce).toBeUndefined();
});

test("an address to listen on becomes a multiaddr", () => {
  expect(parseListen("[::1]:0")).toEqual({ host: "::1", port: 0 });
  expect([listenMultiaddr("127.0.0.1:4701"), listenMultiaddr("[fe80::1]:9")]).toEqual([
    "/ip4/127.0.0.1/tcp/4701",
    "/ip6/fe80::1/tcp/9",
  ]);
  for (const text of ["", "127.0.0.1", "::1:5", "[127.0.0.1]:5", "1.2.3:5", "256.1.1.1:5", "127.0.0.1:-1"]) {
    expect(parseListen(text), text).toBeUndefined();
  }
});
