/**
 * Options of one daemon. One schema is the source of the types, the defaults, the command line's flags
 * (`config-flags.ts`), and the reference that `sojourn init` prints. What both peers must agree on is not
 * here: see protocol/limits.ts.
 *
 * Every default says why it is what it is (`reason`); a test sees to that.
 */
import { readFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { multiaddr } from "@multiformats/multiaddr";
import { z } from "zod";
import { BLOCKS_PER_MESSAGE_MAX, NAME_LENGTH_MAX } from "../protocol/limits.ts";
import { ADDRESSES_MAX } from "../protocol/members/statement.ts";
import { parseConfigText } from "./config-text.ts";
import { checkSocketPath, defaultDataDir } from "./control/socket-path.ts";
import { NodeError } from "./errors.ts";
import { parseListen } from "./listen.ts";
import { parseSize } from "./sizes.ts";

/** Words for people beside an option. `placeholder` is what stands in the flag's help. */
type OptionMeta = { description: string; reason?: string; placeholder?: string };

/** Zod keeps these per schema; set last, for a wrapper does not inherit them. */
function option<Schema extends z.ZodType>(schema: Schema, meta: OptionMeta): Schema {
  return schema.meta(meta) as Schema;
}

const Milliseconds = z
  .int()
  .min(1)
  .max(24 * 60 * 60_000);

/** Bytes, or text such as 64MiB. */
const Size = z.union([z.number(), z.string()]).transform((value, context) => {
  const sizeBytes = typeof value === "number" ? value : parseSize(value);
  if (sizeBytes !== undefined && Number.isSafeInteger(sizeBytes) && sizeBytes >= 1) return sizeBytes;
  context.addIssue({ code: "custom", message: "must be a size such as 65536, 512k, 64MiB or 4GiB" });
  return z.NEVER;
});

const Listen = z.string().refine((text) => parseListen(text) !== undefined, {
  message: "must be an IP address and a port, such as 10.0.0.5:4701 or [::]:4701",
});

const Address = z.string().refine(isMultiaddr, {
  message: "must be a multiaddr such as /ip4/10.0.0.5/tcp/4701",
});

const PeerAddress = Address.refine((text) => !isMultiaddr(text) || peerIdOf(text) !== undefined, {
  message: "must end in /p2p/ and the host's id: without it anyone could answer there",
});

/** The word for a host that nobody can dial, behind a NAT: it dials the others, and is asked to dial back. */
const ANNOUNCE_NONE = "none";

/** Multiaddrs, as a list or with commas between them; after the check always a list, empty for `none`. */
const Announce = z
  .union([
    z.string().transform((text) => (text === ANNOUNCE_NONE ? [] : text.split(","))),
    z.array(z.string()),
  ])
  .pipe(z.array(Address).max(ADDRESSES_MAX));

const DelayRange = z.strictObject({
  min: option(Milliseconds.default(200), {
    description: "first wait before a lost connection is dialled again, milliseconds",
    reason: "a few round trips of any link: a blink of the network costs no more than a blink",
  }),
  max: option(Milliseconds.default(5_000), {
    description: "longest wait between two dials, milliseconds",
    reason: "a host that returns is found within seconds, and one that does not costs a dial each",
  }),
});

const Control = z.strictObject({
  listen: option(Listen.default("127.0.0.1:4701"), {
    description: "address and port for questions between hosts",
    reason: "nothing is open to a network until the operator names one",
    placeholder: "ip:port",
  }),
  announce: option(z.exactOptional(Announce), {
    description:
      "multiaddrs that other hosts are told instead, with commas between them: the one of several networks, or what " +
      "a port is forwarded from; none for a host that cannot be dialled",
    placeholder: "multiaddrs",
  }),
});

const Data = z.strictObject({
  listen: option(Listen.default("127.0.0.1:4702"), {
    description: "address and port for bulk bytes: blocks and memory",
    reason:
      "a port of its own, so that disks on the move cannot delay a question; closed to networks as above",
    placeholder: "ip:port",
  }),
  announce: option(z.exactOptional(Announce), {
    description:
      "multiaddrs that other hosts are told instead, with commas between them: the one of several networks, or what " +
      "a port is forwarded from; none for a host that cannot be dialled",
    placeholder: "multiaddrs",
  }),
});

const Migration = z.strictObject({
  inFlightBlocksMax: option(
    z
      .int()
      .min(BLOCKS_PER_MESSAGE_MAX)
      .max(1 << 20)
      .default(4096),
    {
      description: "blocks sent and not yet acknowledged",
      reason:
        "16 MiB: 10 Gbit/s over 12 ms of round trip, and what a migration may hold in memory at each end",
    },
  ),
  iterationsMax: option(z.int().min(1).max(1000).default(30), {
    description: "pre-copy iterations before the domain is frozen whatever is left",
    reason: "as Xen: a workload that did not converge in 30 will not, and post-copy takes what is left",
  }),
  totalSentFactorMax: option(z.number().min(1).max(100).default(3), {
    description: "pre-copy may send this many times the vbds' size",
    reason: "as Xen: beyond that, sending again costs more than pulling later",
  }),
  remainingBlocksToFreeze: option(
    z
      .int()
      .min(0)
      .max(2 ** 32)
      .default(1024),
    {
      description: "freeze the domain once no more blocks than this are left",
      reason: "4 MiB go in well under a second of post-copy; only the bitmap is part of the downtime",
    },
  ),
  hotSendsMax: option(z.int().min(1).max(1000).default(3), {
    description: "a block that was sent so often and is dirty again waits for post-copy",
    reason: "a block written through three passes will most likely be written through the fourth",
  }),
  writeSlowdownMax: option(z.number().min(0).max(0.95).default(0), {
    description: "the part of its write rate, 0 to 0.95, that a domain may lose so that pre-copy converges",
    reason: "0: nobody asked the guest; what is written faster than it can be sent goes in post-copy",
  }),
  bandwidthMaxBytesPerSecond: option(z.exactOptional(Size), {
    description: "bytes per second that migrations may send; without it as much as the network takes",
    placeholder: "size",
  }),
  stallTimeoutMs: option(Milliseconds.default(15_000), {
    description: "a connection that moved nothing for so long is given up and dialled again, milliseconds",
    reason:
      "longer than a switch's spanning tree or a disk's worst flush, shorter than an operator's patience",
  }),
  freezeTimeoutMs: option(Milliseconds.default(10_000), {
    description:
      "a frozen domain runs on at the source when the destination is not ready by then, milliseconds",
    reason: "no guest's TCP connection breaks in so short a time, and no healthy handover takes so long",
  }),
  reconnectDelayMs: DelayRange.prefault({}),
});

const Membership = z.strictObject({
  timings: option(z.enum(["lan", "wan"]).default("lan"), {
    description: "how patient this host is with others: lan or wan",
    reason: "as memberlist: a second for each probe; hosts that are far apart take five",
  }),
  placementExchangeMs: option(Milliseconds.default(30_000), {
    description: "how often what is known of the domains is compared with a host at random, milliseconds",
    reason:
      "changes are told at once; this repairs what a host missed, and costs 12 octets where nothing differs",
  }),
});

const Discovery = z.strictObject({
  seeds: option(z.array(PeerAddress).max(64).default([]), {
    description:
      "addresses of members, each ending in /p2p/ and its id, that are dialled while no member is reached",
    reason: "members say themselves where they are; this is for a host that missed that all of them moved",
    placeholder: "json",
  }),
  mdns: option(z.boolean().default(false), {
    description: "say on the local network by mDNS where this host is, and dial members that say it",
    reason: "it tells everybody on that network that this host is here",
  }),
});

const Wasm = z.strictObject({
  memoryMaxBytes: option(Size.default(1 << 30), {
    description: "most memory that one WebAssembly domain may be given",
    reason: "a fourth of what wasm32 can address, and no more than a test machine has",
    placeholder: "size",
  }),
});

const Qemu = z.strictObject({
  executable: option(z.string().min(1).default("qemu-system-x86_64"), {
    description: "the QEMU that runs domains of kind qemu; 9.0 or newer where there is no KVM",
    reason: "what Debian's package installs",
    placeholder: "path",
  }),
  acceleration: option(z.enum(["kvm", "tcg"]).default("kvm"), {
    description:
      "how QEMU runs a guest's code: kvm, or tcg, which needs no hardware and is many times slower",
    reason: "nobody wants the other where this one works",
  }),
  kernelFolder: option(z.exactOptional(z.string().min(1)), {
    description: "folder of the kernels and initrds that domains name; kernels in the data folder unless set",
    placeholder: "folder",
  }),
  extraArguments: option(z.boolean().default(false), {
    description: "take qemu domains that bring arguments of their own for QEMU",
    reason: "arguments can run any program: whoever may send a domain to this host could do so",
  }),
});

const Hooks = z.strictObject({
  folder: option(z.exactOptional(z.string().min(1)), {
    description:
      "folder of executables run at the steps of a migration: pre-migrate, pre-freeze, post-resume, post-migrate, " +
      "failed; hooks in the data folder unless set",
    placeholder: "folder",
  }),
  timeoutMs: option(Milliseconds.default(10_000), {
    description: "a hook that has not ended by then is killed, milliseconds",
    reason: "a DNS update takes seconds, and pre-freeze holds the migration up",
  }),
});

const Xen = z.strictObject({
  xl: option(z.string().min(1).default("xl"), {
    description: "the command of Xen's toolstack, in dom0",
    reason: "what Debian's package installs",
    placeholder: "path",
  }),
  kernelFolder: option(z.exactOptional(z.string().min(1)), {
    description: "folder of the kernels and initrds that domains name; kernels in the data folder unless set",
    placeholder: "folder",
  }),
  configFolder: option(z.string().min(1).default("/etc/xen/sojourn"), {
    description: "folder of the configurations of the domains that are here: to read, and for `xl` to refuse",
    reason: "beside the administrator's own, and not among those of /etc/xen/auto",
    placeholder: "folder",
  }),
});

export const NodeConfigSchema = z
  .strictObject({
    name: option(z.string().min(1).max(NAME_LENGTH_MAX).default(hostname), {
      description: "what people call this host",
      reason: "the machine's own name",
    }),
    dataDir: option(
      z
        .string()
        .min(1)
        .default(() => defaultDataDir()),
      {
        description: "folder of the key, the metadata and the vbds",
        reason:
          "root's daemon serves the machine, anybody else's serves its user; SOJOURN_DATA chooses otherwise",
        placeholder: "folder",
      },
    ),
    control: Control.prefault({}),
    data: Data.prefault({}),
    api: z
      .strictObject({
        socketPath: option(z.exactOptional(z.string().min(1)), {
          description: "unix socket of the command line; api.sock in the data folder unless set",
          placeholder: "path",
        }),
      })
      .prefault({}),
    discovery: Discovery.prefault({}),
    membership: Membership.prefault({}),
    migration: Migration.prefault({}),
    wasm: Wasm.prefault({}),
    qemu: Qemu.prefault({}),
    xen: Xen.prefault({}),
    hooks: Hooks.prefault({}),
    faults: option(z.boolean().default(false), {
      description: "allow fault points to be armed: tests only",
      reason: "a host that anyone may crash through its API is for tests",
    }),
  })
  .superRefine(crossCheck);

type Parsed = z.output<typeof NodeConfigSchema>;

/** A whole, checked configuration. `api.socketPath` is always set. */
export type NodeConfig = Omit<Parsed, "api"> & { readonly api: { readonly socketPath: string } };

/** Throws CONFIG_INVALID. `source` is what the message blames: a file's path, "the command line". */
export function parseConfig(value: unknown, source: string): NodeConfig {
  const result = NodeConfigSchema.safeParse(value);
  if (!result.success) {
    const issues = result.error.issues.flatMap(issueTexts);
    throw new NodeError("CONFIG_INVALID", { source, issues }, { cause: result.error });
  }
  const { api, ...rest } = result.data;
  return { ...rest, api: { socketPath: api.socketPath ?? join(rest.dataDir, "api.sock") } };
}

/** One for each mistake, the path first. */
function issueTexts(issue: z.core.$ZodIssue): string[] {
  const where = issue.path.join(".") || "configuration";
  if (issue.code !== "unrecognized_keys" || issue.path.length > 0) return [`${where}: ${issue.message}`];
  return issue.keys.map((key) => {
    const remedy = REMOVED.get(key);
    return remedy === undefined ? `${where}: there is no setting ${key}` : `${key}: ${remedy}`;
  });
}

/** Settings that were, and what takes their place. */
const REMOVED: ReadonlyMap<string, string> = new Map([
  [
    "peers",
    "hosts are no longer listed: delete this setting, run `sojourn invite` on a member of the cluster, and " +
      "`sojourn join TOKEN` here",
  ],
]);

/** What `file` says; undefined when there is no such file. Throws CONFIG_INVALID. */
export async function readConfigFile(file: string): Promise<unknown> {
  try {
    return parseConfigText(await readFile(file, "utf8"));
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new NodeError("CONFIG_INVALID", { source: file, issues: [reason] }, { cause });
  }
}

/** Relations between options: each names the option to change and the one it disagrees with. */
function crossCheck(config: Omit<Parsed, never>, context: z.RefinementCtx): void {
  const refuse = (path: (string | number)[], message: string) =>
    context.addIssue({ code: "custom", path, message });
  const { control, data, migration, api, dataDir } = config;
  if (control.listen === data.listen && parseListen(data.listen)?.port !== 0) {
    refuse(["data", "listen"], "must differ from control.listen: each is a port of its own");
  }
  if (migration.reconnectDelayMs.min > migration.reconnectDelayMs.max) {
    refuse(["migration", "reconnectDelayMs", "min"], "must not exceed migration.reconnectDelayMs.max");
  }
  if (migration.stallTimeoutMs <= migration.reconnectDelayMs.min) {
    refuse(["migration", "stallTimeoutMs"], "must exceed migration.reconnectDelayMs.min");
  }
  try {
    checkSocketPath(api.socketPath ?? join(dataDir, "api.sock"));
  } catch (error) {
    refuse(api.socketPath === undefined ? ["dataDir"] : ["api", "socketPath"], (error as Error).message);
  }
}

function isMultiaddr(text: string): boolean {
  try {
    return multiaddr(text).getComponents().length > 0;
  } catch {
    return false;
  }
}

/** The host id that an address ends in. */
function peerIdOf(address: string): string | undefined {
  const last = multiaddr(address).getComponents().at(-1);
  return last?.name === "p2p" ? last.value : undefined;
}
