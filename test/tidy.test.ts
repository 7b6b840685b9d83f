/**
 * Rules of the repository that no compiler keeps: who may import whom, the purity of `protocol/`, lengths, the top
 * level. Each rule is a function from files to sentences about what breaks it, and is tried on a file that breaks it
 * before it is trusted with ours.
 *
 * The lists of present offenders only shrink: one that grew, or that is not over its limit any more, fails too.
 */

import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { FAULT_POINTS } from "../node/fault-points.ts";
import { DESTINATION_BODIES } from "../protocol/wire/destination-bodies.ts";
import { SOURCE_BODIES } from "../protocol/wire/source-bodies.ts";

type SourceFile = { path: string; text: string };
type Rule = (file: SourceFile) => string[];

const ROOT = fileURLToPath(new URL("..", import.meta.url));
/** Its samples break every rule. */
const THIS_FILE = "test/tidy.test.ts";
const FOLDERS = ["protocol", "storage", "node", "testnet", "test"] as const;

/** What a folder may import of ours beside itself. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  protocol: [],
  storage: ["protocol"],
  node: ["protocol", "storage"],
  testnet: ["protocol", "storage", "node"],
  test: ["protocol", "storage", "node", "testnet"],
};

/** Parts of the daemon that do not know each other; the composition roots bring them together. */
const STRANGERS = ["node/hypervisor/", "node/attachment/", "node/network/"];

/** What the command line may know of the daemon: how to reach it, and what must work while none runs. */
const CLI_MAY_IMPORT = [
  "node/control/api.ts",
  "node/control/client.ts",
  "node/control/socket-path.ts",
  "node/errors.ts",
  "node/sizes.ts",
  "node/version.ts",
  "node/data-folder.ts",
  // `init`, `join` and `up`: they read and write the configuration, the key and the cluster before there is a daemon.
  "node/config.ts",
  "node/config-flags.ts",
  "node/config-text.ts",
  "node/identity.ts",
  "node/listen.ts",
  "node/daemon.ts",
  "node/cluster/local.ts",
  // `history --chain` checks a chain of custody anywhere.
  "node/recovery/chain-report.ts",
  // `repair` works on a folder that no daemon can use.
  "node/recovery/repair.ts",
  // `doctor` looks at a host before there is a daemon.
  "node/doctor/finding.ts",
  "node/doctor/host.ts",
  // `setup` prepares a host for a daemon.
  "node/setup/from-xl.ts",
  "node/setup/host-entries.ts",
  "node/setup/systemd.ts",
  "node/setup/xen.ts",
  // `nbd-serve` is our server without a daemon.
  "storage/nbd/serve-file.ts",
  "protocol/units.ts",
];

/** Implementations of an interface; the rest of `node/` speaks of the interface. */
const ADAPTERS: Record<string, string> = {
  WasmHypervisor: "node/hypervisor/",
  QemuHypervisor: "node/hypervisor/",
  Libp2pNetwork: "node/network/",
  LevelMetadata: "storage/",
  NbdAttachment: "node/attachment/",
  QmpAttachment: "node/attachment/",
};

const COMPOSITION_ROOTS = ["node/daemon.ts", "node/data/main.ts"];

/** Who else names an adapter, and why. */
const ADAPTER_EXCEPTIONS: Record<string, readonly string[]> = {
  // `repair` is a whole program of its own: there is no daemon to put it together.
  "node/recovery/repair.ts": ["LevelMetadata"],
};

/** In `protocol/` the world is events that come in and effects that go out. */
const IMPURE: readonly [what: string, pattern: RegExp][] = [
  ["a clock", /\bDate\b|\bperformance\s*\./],
  ["chance", /\bMath\s*\.\s*random\b|\bcrypto\s*\./],
  ["a timer", /\bset(?:Timeout|Interval|Immediate)\b|\bqueueMicrotask\b/],
  ["asynchrony", /\basync\b|\bawait\b|\bPromise\b/],
  ["output", /\bconsole\s*\./],
  ["the process", /\bprocess\s*\.|\bglobalThis\b/],
];

const FILE_LINES_MAX = 500;
const FUNCTION_LINES_MAX = 70;

/** Over the limit today, with their length: none may grow, and none may join. */
const LONG_FILES: Record<string, number> = {};
const LONG_FUNCTIONS: Record<string, number> = {
  "node/daemon.ts runDaemon": 118,
  "node/data/main.ts main": 76,
};

/** DESIGN §2: the parts, and what tools need. */
const TOP_LEVEL = [
  "protocol",
  "storage",
  "node",
  "testnet",
  "test",
  "README.md",
  "package.json",
  "tsconfig.json",
  // For tools.
  ".ci",
  ".gitignore",
  "LICENSE",
  "biome.json",
  "package-lock.json",
  "rolldown.config.ts",
  "vitest.config.ts",
];

const FOREIGN: readonly [what: string, pattern: RegExp][] = [
  [
    "a path of one machine",
    new RegExp(`(?:^|[^\\w.$}/])/(?:${["work", "home", "root", "Users"].join("|")})/\\w`),
  ],
  [
    "a registry",
    new RegExp(["https?://[^\\s\"']*registry", "npmjs\\.", "verdaccio", "artifactory"].join("|")),
  ],
  ["where a package was fetched", /"resolved":\s*"https?:/],
];

describe("imports", () => {
  const direction: Rule = ({ path, text }) => {
    const from = path.split("/")[0]!;
    return importsOf({ path, text }).flatMap(({ target }) => {
      const to = target?.split("/")[0];
      if (target === undefined || to === undefined || to === from || !isFolder(to)) return [];
      return MAY_IMPORT[from]!.includes(to) ? [] : [`${path} imports ${target}`];
    });
  };

  const strangers: Rule = (file) => {
    const own = STRANGERS.find((folder) => file.path.startsWith(folder));
    if (own === undefined) return [];
    return importsOf(file).flatMap(({ target }) => {
      const other = STRANGERS.find((folder) => target?.startsWith(folder));
      return other === undefined || other === own ? [] : [`${file.path} imports ${target}`];
    });
  };

  const cli: Rule = (file) => {
    if (!file.path.startsWith("node/cli/")) return [];
    return importsOf(file).flatMap(({ target }) => {
      if (target === undefined || target.startsWith("node/cli/")) return [];
      return CLI_MAY_IMPORT.includes(target) ? [] : [`${file.path} imports ${target}`];
    });
  };

  const adapters: Rule = (file) => {
    if (!file.path.startsWith("node/") || COMPOSITION_ROOTS.includes(file.path)) return [];
    const code = codeOf(file.text);
    return Object.entries(ADAPTERS).flatMap(([name, home]) => {
      const mayName = file.path.startsWith(home) || ADAPTER_EXCEPTIONS[file.path]?.includes(name);
      return !mayName && new RegExp(`\\b${name}\\b`).test(code) ? [`${file.path} names ${name}`] : [];
    });
  };

  it("run one way: protocol ← storage ← node ← testnet, and nothing imports test/", () => {
    expect(direction({ path: "protocol/a.ts", text: 'import { x } from "../storage/x.ts";\n' })).toHaveLength(
      1,
    );
    expect(direction({ path: "node/a.ts", text: 'export * from "../test/x.ts";\n' })).toHaveLength(1);
    expect(
      direction({ path: "storage/a.ts", text: 'const x = await import("../node/x.ts");\n' }),
    ).toHaveLength(1);
    expect(
      direction({ path: "storage/a.ts", text: 'import\n  type { X }\nfrom "../node/x.ts";\n' }),
    ).toHaveLength(1);
    expect(breaches(direction)).toEqual([]);
  });

  it("leave hypervisors, attachments and the network strangers to each other", () => {
    const text = 'import type { X } from "../../network/network.ts";\n';
    expect(strangers({ path: "node/hypervisor/wasm/a.ts", text })).toHaveLength(1);
    expect(breaches(strangers)).toEqual([]);
  });

  it("let the command line know of the daemon only how to reach it", () => {
    expect(
      cli({ path: "node/cli/a.ts", text: 'import { X } from "../migration/migrations.ts";\n' }),
    ).toHaveLength(1);
    expect(breaches(cli)).toEqual([]);
    for (const path of CLI_MAY_IMPORT) expect(existsSync(join(ROOT, path)), path).toBe(true);
  });

  it("of adapters are the composition roots' alone", () => {
    expect(adapters({ path: "node/migration/a.ts", text: "new Libp2pNetwork();\n" })).toHaveLength(1);
    expect(breaches(adapters)).toEqual([]);
    for (const [path, names] of Object.entries(ADAPTER_EXCEPTIONS)) {
      for (const name of names) expect(readFileSync(join(ROOT, path), "utf8"), path).toContain(name);
    }
  });

  it("bring no default exports", () => {
    const defaults: Rule = ({ path, text }) =>
      /\bexport default\b|\bas default\b/.test(codeOf(text)) ? [`${path} has a default export`] : [];
    expect(defaults({ path: "a.ts", text: "export default function f() {}\n" })).toHaveLength(1);
    expect(breaches(defaults)).toEqual([]);
  });
});

describe("protocol/", () => {
  const pure: Rule = (file) => {
    if (!file.path.startsWith("protocol/")) return [];
    const strange = importsOf(file)
      .filter(({ specifier, target }) => target === undefined && specifier !== undefined)
      .map(({ specifier }) => `${file.path} imports ${specifier}`);
    const code = codeOf(file.text);
    const impure = IMPURE.filter(([, pattern]) => pattern.test(code)).map(
      ([what]) => `${file.path} has ${what}`,
    );
    return [...strange, ...impure];
  };

  it("imports neither Node nor a package, and has no clock, chance, timer, asynchrony or output", () => {
    const broken = [
      'import { crc32 } from "node:zlib";',
      'import { z } from "zod";',
      "const t = Date.now();",
      "const x = Math.random();",
      "setTimeout(f, 1);",
      "async function f() {}",
      "console.log(1);",
      "process.exit(1);",
    ];
    for (const text of broken)
      expect(pure({ path: "protocol/a.ts", text: `${text}\n` }), text).not.toEqual([]);
    expect(pure({ path: "protocol/a.ts", text: "// Date, async and process are words\n" })).toEqual([]);
    expect(breaches(pure)).toEqual([]);
  });
});

describe("lengths", () => {
  it(`of files stay at ${FILE_LINES_MAX} lines at most`, () => {
    expect(tooLong([["a.ts", 501]], FILE_LINES_MAX, {})).toHaveLength(1);
    expect(tooLong([["a.ts", 521]], FILE_LINES_MAX, { "a.ts": 520 })).toHaveLength(1);
    expect(tooLong([["a.ts", 500]], FILE_LINES_MAX, { "a.ts": 520 })).toHaveLength(1);
    expect(tooLong([["a.ts", 520]], FILE_LINES_MAX, { "a.ts": 520 })).toEqual([]);
    const lengths = sources().map(({ path, text }): [string, number] => [path, lineCountOf(text)]);
    // One suite of many small tests may be longer than a file of code may.
    const ours = lengths.filter(([path]) => !path.startsWith("test/"));
    expect(tooLong(ours, FILE_LINES_MAX, LONG_FILES)).toEqual([]);
  });

  it(`of functions stay at ${FUNCTION_LINES_MAX} lines at most, tests aside`, () => {
    const body = "  x();\n".repeat(80);
    const method = "    x();\n".repeat(80);
    expect(functionsOf(`function f() {\n${body}}\n`)).toEqual([["f", 82]]);
    expect(functionsOf(`export const f = (a: number): void => {\n${body}};\n`)).toEqual([["f", 82]]);
    expect(
      functionsOf(`class A {\n  async #m(\n    a: number,\n  ): Promise<void> {\n${method}  }\n}\n`),
    ).toEqual([["A.#m", 84]]);
    const lengths = sources()
      .filter(({ path }) => !path.startsWith("test/"))
      .flatMap(({ path, text }) =>
        functionsOf(text).map(([name, lines]): [string, number] => [`${path} ${name}`, lines]),
      );
    // Enough to be sure that functions are found at all.
    expect(lengths.length).toBeGreaterThan(500);
    expect(tooLong(lengths, FUNCTION_LINES_MAX, LONG_FUNCTIONS)).toEqual([]);
  });
});

describe("protocol/PROTOCOL.md", () => {
  // A table's padding says nothing.
  const text = readFileSync(join(ROOT, "protocol/PROTOCOL.md"), "utf8").replaceAll(/ {2,}\|/g, " |");

  it("has a row for every message, with its number", () => {
    const rows = Object.entries({ ...SOURCE_BODIES, ...DESTINATION_BODIES }).map(
      ([type, { number }]) => `\n| \`${type}\` | 0x${number.toString(16).padStart(4, "0")} |`,
    );
    expect(rows.filter((row) => !text.includes(row))).toEqual([]);
  });

  it("says of every fault point what is after a restart", () => {
    expect(Object.keys(FAULT_POINTS).filter((point) => !text.includes(`\n| \`${point}\` |`))).toEqual([]);
  });

  it("is cited by sections that it has", () => {
    const sections = new Set([...text.matchAll(/^##+ (\d+(?:\.\d+)?)/gm)].map((match) => match[1]));
    expect(sections.size).toBeGreaterThan(40);
    const cited = (file: SourceFile): string[] =>
      [...file.text.matchAll(/PROTOCOL\.md ((?:§[\d.]*\d(?:, )?)+)/g)]
        .flatMap((match) => match[1]!.match(/[\d.]*\d/g) ?? [])
        .filter((section) => !sections.has(section))
        .map((section) => `${file.path} cites §${section}`);
    expect(cited({ path: "a.ts", text: "see PROTOCOL.md §2.3, §99.1" })).toEqual(["a.ts cites §99.1"]);
    const own = [...text.matchAll(/§(\d[\d.]*\d|\d)/g)].map((match) => match[1]!);
    const dangling = own.filter((section) => !sections.has(section) && !/^1\.12$/.test(section));
    expect([...breaches(cited), ...dangling]).toEqual([]);
  });

  it("names files and tests that are there", () => {
    const linked = [...text.matchAll(/\]\(([^)#]+)\)/g)].map((match) =>
      normalize(join("protocol", match[1]!)),
    );
    expect(linked.filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
    const tests = sources().filter(({ path }) => path.startsWith("test/"));
    const rows = text.split("\n").filter((line) => /^\| I\d+ \|/.test(line));
    expect(rows.length).toBeGreaterThan(15);
    const strange = rows.flatMap((row) => {
      const names = [...row.matchAll(/`([\w./-]+\.ts)`/g)].map((match) => match[1]!);
      const titles = [...row.matchAll(/"([^"]+)"/g)].map((match) => match[1]!);
      return [
        ...names.filter((name) => !tests.some(({ path }) => path.endsWith(name)) && name !== THIS_FILE),
        ...titles.filter((title) => !tests.some((file) => file.text.includes(`"${title}"`))),
      ];
    });
    expect(strange).toEqual([]);
  });
});

describe("the repository", () => {
  it("has no file of leftovers", () => {
    const leftovers: Rule = ({ path }) =>
      /(?:^|\/)(?:utils?|helpers?|misc|common)\.ts$/.test(path) ? [`${path} needs a noun for a name`] : [];
    expect(leftovers({ path: "node/utils.ts", text: "" })).toHaveLength(1);
    expect(breaches(leftovers)).toEqual([]);
  });

  it.skipIf(!isCheckout())(
    "has at its top level what the design lists and what tools need, and nothing else",
    () => {
      const strange = (paths: readonly string[]) =>
        [...new Set(paths.map((path) => path.split("/")[0]!))].filter((name) => !TOP_LEVEL.includes(name));
      expect(strange(["node/a.ts", "notes/a.md"])).toEqual(["notes"]);
      expect(strange(committed())).toEqual([]);
    },
  );

  it.skipIf(!isCheckout())("names no path of one machine and no registry", () => {
    const foreign: Rule = ({ path, text }) =>
      FOREIGN.filter(([, pattern]) => pattern.test(text)).map(([what]) => `${path} names ${what}`);
    const broken = ["/work/main/a.ts", "see /home/me/x", "https://registry.example.com/x"];
    for (const text of broken) expect(foreign({ path: "a.md", text }), text).toHaveLength(1);
    const files = committed()
      .filter((path) => path !== THIS_FILE && existsSync(join(ROOT, path)))
      .map((path) => ({ path, text: readFileSync(join(ROOT, path), "latin1") }));
    expect(files.length).toBeGreaterThan(100);
    expect(files.flatMap(foreign)).toEqual([]);
  });
});

function isFolder(name: string): boolean {
  return (FOLDERS as readonly string[]).includes(name);
}

function breaches(rule: Rule): string[] {
  return sources().flatMap(rule);
}

let found: readonly SourceFile[] | undefined;

/** Every TypeScript file of ours but this one; the wasm guest is written for another compiler, and still imports as we do. */
function sources(): readonly SourceFile[] {
  found ??= FOLDERS.filter((folder) => existsSync(join(ROOT, folder)))
    .flatMap((folder) =>
      readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" }).map((path) =>
        join(folder, path),
      ),
    )
    .filter((path) => path.endsWith(".ts") && path !== THIS_FILE)
    .sort()
    .map((path) => ({ path, text: readFileSync(join(ROOT, path), "utf8") }));
  return found;
}

function isCheckout(): boolean {
  return existsSync(join(ROOT, ".git"));
}

function committed(): string[] {
  const listed = execFileSync("git", ["-c", "safe.directory=*", "ls-files", "-z"], {
    cwd: ROOT,
    encoding: "utf8",
    maxBuffer: 1 << 26,
  });
  return listed.split("\0").filter((path) => path !== "");
}

/** `target`: the file of ours that is meant; undefined for Node and packages. */
function importsOf({ path, text }: SourceFile): { specifier: string; target: string | undefined }[] {
  const pattern = /(?:(?<!["\w.])from\s*|\bimport\s*\(\s*|^import\s+)"([^"\n]+)"/gm;
  return [...withoutComments(text).matchAll(pattern)].map((match) => {
    const specifier = match[1]!;
    const target = specifier.startsWith(".") ? normalize(join(dirname(path), specifier)) : undefined;
    return { specifier, target };
  });
}

function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\//g, " ").replace(/^\s*\/\/.*$|\s\/\/ .*$/gm, " ");
}

/** Without comments and without the text of strings: what is left are names and signs. */
function codeOf(text: string): string {
  return withoutComments(text)
    .replace(/"(?:[^"\\\n]|\\.)*"/g, '""')
    .replace(/`(?:[^`\\$]|\\.|\$(?!\{))*`/g, "``");
}

function lineCountOf(text: string): number {
  return text.split("\n").length - (text.endsWith("\n") ? 1 : 0);
}

/**
 * Functions and methods with their lengths, signature and closing brace included; one inside another counts with it.
 * Reads by indentation, which the formatter guarantees.
 */
function functionsOf(text: string): [name: string, lines: number][] {
  const lines = text.split("\n");
  const functions: [string, number][] = [];
  let className: string | undefined;
  for (const [index, line] of lines.entries()) {
    if (line === "}") className = undefined;
    className = /^(?:export )?(?:abstract )?class (\w+)/.exec(line)?.[1] ?? className;
    const named = /^(?:export )?(?:async )?function\*? ?(\w+)/.exec(line)?.[1];
    const arrow = /^(?:export )?const (\w+)\b.*= (?:async )?(?:\(|<|\w+ =>)/.exec(line)?.[1];
    const method =
      className !== undefined
        ? /^ {2}(?:(?:static|async|override|get|set) |\*)*(#?\w+)[(<]/.exec(line)?.[1]
        : undefined;
    const name = named ?? arrow ?? (method === undefined ? undefined : `${className}.${method}`);
    if (name === undefined) continue;
    const indent = method === undefined || named !== undefined || arrow !== undefined ? "" : "  ";
    const closing = arrow === undefined ? [`${indent}}`] : ["};", ");"];
    const length = endsOnItsLine(line) ? 1 : lines.slice(index).findIndex((one) => closing.includes(one)) + 1;
    if (length > 0) functions.push([name, length]);
  }
  return functions;
}

/** A body that opens and closes on its first line, or a signature without one. */
function endsOnItsLine(line: string): boolean {
  return line.endsWith(";") || line.endsWith("}");
}

function tooLong(
  lengths: readonly (readonly [name: string, lines: number])[],
  limit: number,
  known: Readonly<Record<string, number>>,
): string[] {
  const all = new Map(lengths);
  const grown = lengths
    .filter(([name, lines]) => lines > Math.max(limit, known[name] ?? 0))
    .map(([name, lines]) => `${name} has ${lines} lines, ${known[name] ?? limit} are allowed`);
  const mended = Object.keys(known)
    .filter((name) => (all.get(name) ?? 0) <= limit)
    .map((name) => `${name} is within its limit: take it off the list`);
  return [...grown, ...mended];
}
