/**
 * `sojourn init`: writes a host's configuration and its key, and makes a cluster of it that other hosts can join.
 * What is there already stays as it is.
 */

import { open } from "node:fs/promises";
import { resolve } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { Command } from "commander";
import { defaultDataDir } from "../control/socket-path.ts";
import { configFile, keyFile } from "../data-folder.ts";
import { addCommand } from "./command.ts";
import { formatFields, printJson, UsageError } from "./output.ts";

/** What `init` and `join` have in common. */
export type HostOptions = {
  dataDir: string;
  name?: string;
  listen?: string;
  dataListen?: string;
  announce?: string;
  dataAnnounce?: string;
};

type InitOptions = HostOptions & { reference?: boolean; json?: boolean };

export function addInit(program: Command): void {
  const command = addCommand(program, "init", {
    summary: "make this host and a cluster of it; what is there already stays as it is",
    example: "sojourn init --name alpha --listen 10.0.0.5:4701 --data-listen 10.0.0.5:4702",
  });
  addHostOptions(command)
    .option("--reference", "explain every option of the configuration, and write nothing")
    .option("--json", "print JSON")
    .action(init);
}

export function addHostOptions(command: Command): Command {
  return command
    .option("--data-dir <folder>", "where the key, the metadata and the vbds live", defaultDataDir())
    .option("--name <name>", "what people call this host (default: the machine's name)")
    .option("--listen <ip:port>", "where other hosts ask questions (default: 127.0.0.1:4701)")
    .option("--data-listen <ip:port>", "where blocks and memory arrive (default: 127.0.0.1:4702)")
    .option(
      "--announce <multiaddrs>",
      "what other hosts are told instead of --listen, with commas between; none for a host that cannot be dialled",
    )
    .option("--data-announce <multiaddrs>", "the same for --data-listen");
}

/** Writes the configuration and the key where they are missing. Throws CONFIG_INVALID before anything is written. */
export async function prepareHost(options: HostOptions) {
  const { parseConfig, readConfigFile } = await import("../config.ts");
  const { configText } = await import("../config-text.ts");
  const { loadIdentity, loadOrCreateIdentity } = await import("../identity.ts");
  const dataDir = resolve(options.dataDir);
  const file = configFile(dataDir);
  const key = keyFile(dataDir);

  const existing = await readConfigFile(file);
  const wanted = merge(existing, options);
  const config = parseConfig({ ...wanted, dataDir }, existing === undefined ? "the command line" : file);
  if (existing !== undefined && !isDeepStrictEqual(wanted, existing)) {
    throw new UsageError(`${file} exists and says something else than the command line: edit it instead`);
  }
  const keyCreated = (await loadIdentity(key)) === undefined;
  const identity = await loadOrCreateIdentity(key);
  if (existing === undefined) await writeNew(file, configText(wanted, await reference()));
  return { config, file, key, identity, configCreated: existing === undefined, keyCreated };
}

async function init(options: InitOptions): Promise<void> {
  if (options.reference) return printReference();
  const { config, file, key, identity, configCreated, keyCreated } = await prepareHost(options);
  const { createLocalCluster } = await import("../cluster/local.ts");
  const { cluster } = await createLocalCluster({ ...config, identity });
  const { hostId } = identity;
  if (options.json) {
    const created = { configCreated, keyCreated };
    printJson({ config: file, key, ...created, host: hostId, cluster });
    return;
  }
  process.stdout.write(
    formatFields([
      ["configuration", `${file} (${configCreated ? "new" : "was there, unchanged"})`],
      ["key", `${key} (${keyCreated ? "new" : "was there, unchanged"})`],
      ["host", hostId],
      ["cluster", cluster],
      ["other hosts", "`sojourn up` here, then `sojourn invite`, and `sojourn join` on the other one"],
    ]),
  );
}

async function printReference(): Promise<void> {
  process.stdout.write(await reference());
}

async function reference(): Promise<string> {
  const [{ NodeConfigSchema }, { configReference }] = await Promise.all([
    import("../config.ts"),
    import("../config-flags.ts"),
  ]);
  return configReference(NodeConfigSchema);
}

/** What the command line says over what the file says. The folder is where the file is, so the file need not say it. */
function merge(existing: unknown, options: InitOptions): Record<string, unknown> {
  const { name, listen, dataListen, announce, dataAnnounce } = options;
  const base = typeof existing === "object" && existing !== null ? (existing as Record<string, unknown>) : {};
  const control = { ...(listen && { listen }), ...(announce && { announce }) };
  const data = { ...(dataListen && { listen: dataListen }), ...(dataAnnounce && { announce: dataAnnounce }) };
  return {
    ...base,
    ...(name === undefined ? {} : { name }),
    ...(isEmpty(control) ? {} : { control: { ...(base.control as object), ...control } }),
    ...(isEmpty(data) ? {} : { data: { ...(base.data as object), ...data } }),
  };
}

function isEmpty(settings: object): boolean {
  return Object.keys(settings).length === 0;
}

/** Never over a file that appeared meanwhile; readable by its owner only, as everything in the folder. */
async function writeNew(file: string, text: string): Promise<void> {
  const handle = await open(file, "wx", 0o600);
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
}
