/** `sojourn create`: a new domain on this host. */

import { resolve } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import type { Api, VbdRequest } from "../control/api.ts";
import { collect, integer, size } from "./arguments.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { printable, UsageError } from "./output.ts";

type CreateCliOptions = ApiOptions & {
  hypervisor: string;
  fromXl?: string;
  memory?: number;
  vbd?: VbdRequest[];
  image?: string;
  flatten?: boolean;
  workload?: string;
  seed?: number;
  fill?: number;
  config?: string;
};

export function addCreate(program: Command): void {
  addApiCommand(program, "create", {
    summary: "create a domain on this host and start it",
    example: "sojourn create web --memory 64MiB --vbd root=4GiB --workload web",
  })
    .argument("[name]", "the domain's name")
    .option("--hypervisor <kind>", "the adapter that runs it", "wasm")
    .option("--from-xl <file>", "xen: all of it from a configuration of xl, whose disks stay where they are")
    .option("--memory <size>", "the guest's memory (wasm: 64MiB unless said)", size)
    .option(
      "--vbd <name=size|name=path>",
      "a new vbd, or a file or device as it is; repeatable",
      collect(vbdRequest),
    )
    .option("--image <file>", "the first vbd starts as a copy of this file")
    .option("--flatten", "the image may be qcow2: what its guest sees is copied, without its snapshots")
    .option("--workload <name>", "wasm: what the guest does")
    .option("--seed <n>", "wasm: seed of the workload", integer({ min: 1 }))
    .option("--fill <size>", "wasm: how much the guest writes to its vbds first", size)
    .option("--config <json>", "settings of another hypervisor adapter, as JSON")
    .action(async (name: string | undefined, options: CreateCliOptions) => {
      const { fromXl } = options;
      const { params, notes } =
        fromXl === undefined
          ? { params: createParams(name, options), notes: [] }
          : await paramsFromXl(name, { ...options, fromXl });
      await withClient(options, async (client) => {
        const done = await client.call("create", params);
        const lines = [
          `created ${printable(done.name)} (${printable(done.domain)})`,
          ...notes.map((note) => `  ${printable(note)}`),
        ];
        printResult(
          options,
          { ...done, ...(fromXl !== undefined && { notes }) },
          () => `${lines.join("\n")}\n`,
        );
      });
    });
}

/** "root=4GiB": a new vbd; "data=/srv/data.img" or "data=./data.img": that file, in place. */
function vbdRequest(text: string): VbdRequest {
  const [, name, value] = /^([^=]+)=(.+)$/.exec(text) ?? [];
  if (name === undefined || value === undefined) {
    throw new InvalidArgumentError("It must be NAME=SIZE or NAME=PATH.");
  }
  if (value.includes("/")) return { name, path: resolve(value) };
  return { name, sizeBytes: size(value) };
}

/** Enough for every workload of the embedded guest. */
const WASM_MEMORY_BYTES = 64 << 20;

function createParams(name: string | undefined, options: CreateCliOptions): Api["create"]["params"] {
  const { hypervisor, memory } = options;
  if (name === undefined) throw new UsageError("the domain needs a name");
  if (memory === undefined && hypervisor !== "wasm")
    throw new UsageError("--memory says how much the guest gets");
  return {
    name,
    hypervisor,
    memoryBytes: memory ?? WASM_MEMORY_BYTES,
    vbds: withImage(options.vbd ?? [], options),
    config: adapterConfig(options),
  };
}

async function paramsFromXl(
  name: string | undefined,
  { fromXl, ...options }: CreateCliOptions & { fromXl: string },
): Promise<{ params: Api["create"]["params"]; notes: string[] }> {
  for (const other of ["memory", "vbd", "image", "flatten", "workload", "seed", "fill", "config"] as const) {
    if (options[other] !== undefined) throw new UsageError(`--from-xl says it all: no --${other} beside it`);
  }
  const { readXlDomain } = await import("../setup/from-xl.ts");
  const file = resolve(fromXl);
  const { notes, config, ...domain } = await readXlDomain(file);
  const params = { ...domain, hypervisor: "xen", config: JSON.stringify(config) };
  const warning = `\`xl create ${file}\` would still boot it on the same disks, unseen: move that file away`;
  return { params: { ...params, name: name ?? domain.name }, notes: [...notes, warning] };
}

function withImage(
  vbds: readonly VbdRequest[],
  { image, flatten = false }: Pick<CreateCliOptions, "image" | "flatten">,
): readonly VbdRequest[] {
  if (image === undefined && flatten) throw new UsageError("--flatten says how to copy an --image");
  if (image === undefined) return vbds;
  const [first = { name: "root" }, ...others] = vbds;
  if (first.path !== undefined)
    throw new UsageError("--image fills a new first vbd, and the first --vbd is a file");
  return [{ ...first, image: resolve(image), ...(flatten ? { flatten } : {}) }, ...others];
}

/** The adapter reads its own JSON; the wasm adapter's settings have options of their own here. */
function adapterConfig({ config, workload, seed, fill }: CreateCliOptions): string {
  const settings = {
    ...(workload === undefined ? {} : { workload }),
    ...(seed === undefined ? {} : { seed }),
    ...(fill === undefined ? {} : { fillBytes: fill }),
  };
  if (config === undefined) return JSON.stringify(settings);
  if (Object.keys(settings).length > 0) {
    throw new UsageError("--config holds all settings: --workload, --seed and --fill cannot stand beside it");
  }
  try {
    JSON.parse(config);
  } catch (cause) {
    throw new UsageError("--config is not JSON", { cause });
  }
  return config;
}
