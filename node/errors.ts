/**
 * What the daemon answers when it does not do what was asked: one table of codes, each with its meaning, the
 * exit code it leads to, a sentence for people that names the thing, and the remedy.
 *
 * The exit code answers the operator's one question: where does my domain run?
 */
import { ApiError } from "./control/errors.ts";

export const EXIT_CODES = {
  0: "done",
  1: "not done; the domain is where it was, unharmed",
  2: "the command or the configuration is wrong; nothing was tried",
  3: "not finished; the domain is at the destination, unharmed",
  4: "undecided: handed over and not confirmed; run `sojourn recover` before anything else",
} as const;

export type ExitCode = keyof typeof EXIT_CODES;

type Entry<Facts> = {
  meaning: string;
  exitCode: ExitCode;
  message: (facts: Facts) => string;
  remedy: (facts: Facts) => string | undefined;
};

/** Ties the facts' type to its entry. */
function entry<Facts extends Record<string, unknown>>(
  exitCode: ExitCode,
  meaning: string,
  message: (facts: Facts) => string,
  remedy: (facts: Facts) => string | undefined = () => undefined,
): Entry<Facts> {
  return { exitCode, meaning, message, remedy };
}

/** The words that were used. */
const WORDS = {
  USAGE: entry<{ reason: string }>(
    2,
    "The command cannot be understood.",
    ({ reason }) => reason,
    () => "see `sojourn help`",
  ),
  CONFIG_INVALID: entry<{ source: string; issues: readonly string[] }>(
    2,
    "The configuration breaks its own rules.",
    ({ source, issues }) => `${source} is not valid: ${issues.join("; ")}`,
    () => "`sojourn init --reference` explains every option",
  ),
  SETUP_FOREIGN: entry<{ paths: readonly string[] }>(
    1,
    "What `setup` would write is there already, and not written by us.",
    ({ paths }) => `${paths.join(", ")}: there already, and not written by sojourn; nothing was changed`,
    ({ paths }) =>
      `look at ${paths.length === 1 ? "it" : "them"}, move out of the way what you do not need, and run this again`,
  ),
  XL_CONFIG: entry<{ file: string; problems: readonly string[] }>(
    2,
    "A configuration of xl asks for what cannot be carried to another host.",
    ({ file, problems }) => `${file} cannot be carried as it is: ${problems.join("; ")}`,
    () => "change it, or a copy of it, as the lines say; nothing was done",
  ),
  XL_AUTOSTART: entry<{ file: string; link: string }>(
    1,
    "The service xendomains would boot the domain beside us.",
    ({ file, link }) => `${link} makes xendomains boot ${file} at every boot, wherever the domain is by then`,
    ({ link }) => `rm ${link}: \`sojourn undrain\` boots the domains that are here`,
  ),
  XL_RUNNING: entry<{ name: string }>(
    1,
    "A domain of this name runs, and xl has started it.",
    ({ name }) => `xl runs ${name} now, on disks that it would share with itself`,
    ({ name }) => `\`xl shutdown -w ${name}\` first: it is booted again under Sojourn`,
  ),
  SETUP_IN_USE: entry<{ domains: readonly string[] }>(
    1,
    "Domains run on what `setup --undo` would remove.",
    ({ domains }) => `domains of sojourn are on this host: ${domains.join(", ")}; nothing was changed`,
    () => "`sojourn drain` ends them in order, `sojourn drain --to HOST` moves them away",
  ),
  FAULTS_DISABLED: entry<{ spec: string }>(
    2,
    "A fault point was to be armed on a host that does not allow it.",
    ({ spec }) => `"${spec}" would make this daemon fail on purpose, which its configuration does not allow`,
    () => 'set "faults": true on a test cluster; never where domains matter',
  ),
} as const;

const DOMAINS_AND_HOSTS = {
  DOMAIN_UNKNOWN: entry<{ query: string }>(
    1,
    "No host of the cluster knows a domain of this name or id.",
    ({ query }) => `no domain is called "${query}"`,
    () => "`sojourn list` shows the domains that are known",
  ),
  DOMAIN_AMBIGUOUS: entry<{ query: string; matches: readonly string[] }>(
    1,
    "A name or an id's beginning fits several domains.",
    ({ query, matches }) => `"${query}" fits several domains: ${matches.join(", ")}`,
    () => "give the whole id",
  ),
  DOMAIN_EXISTS: entry<{ name: string; domain: string }>(
    1,
    "A domain of this name exists.",
    ({ name, domain }) => `"${name}" is the name of domain ${domain}`,
    () => "choose another name",
  ),
  DOMAIN_ELSEWHERE: entry<{ domain: string; host: string }>(
    1,
    "The domain is on another host, which has to do this.",
    ({ domain, host }) => `${domain} is on ${host}`,
    ({ host }) => `run this on ${host}`,
  ),
  DOMAIN_STATE: entry<{ domain: string; state: string; wanted: string }>(
    1,
    "The domain's state does not allow this.",
    ({ domain, state, wanted }) => `${domain} is ${state} and has to be ${wanted} for this`,
    ({ domain }) => `\`sojourn show ${domain}\` says more`,
  ),
  NOT_OWNER: entry<{ domain: string; owner: string; generation: number }>(
    1,
    "This host's journal does not give it the right to run the domain.",
    ({ domain, owner, generation }) =>
      `this host may not run ${domain}: its generation ${generation} belongs to ${owner}`,
    ({ owner }) => `run this on ${owner}`,
  ),
  OWNERSHIP_UNCERTAIN: entry<{ domain: string; reason: string }>(
    4,
    "This host's journal may be older than the truth, or the other end could not be asked.",
    ({ domain, reason }) => `nobody can say for certain who runs ${domain} (${reason}); it stays frozen here`,
    ({ domain }) => `run \`sojourn recover ${domain}\``,
  ),
  HOST_UNKNOWN: entry<{ query: string }>(
    1,
    "No host of the cluster has this name or id.",
    ({ query }) => `no host is called "${query}"`,
    () =>
      "`sojourn hosts` shows those that are known; `sojourn invite` here and `sojourn join` there adds one",
  ),
  HOST_DEAD: entry<{ host: string; status: string; seconds: number }>(
    1,
    "The host is believed dead, or has left: nothing is sent to it.",
    ({ host, status, seconds }) =>
      `${host} ${status === "left" ? "left the cluster" : "is dead"}, as this host has believed for ${seconds} s`,
    ({ host }) => `bring ${host} up, or choose another host: \`sojourn members\` shows who is alive`,
  ),
  HOST_AMBIGUOUS: entry<{ query: string; matches: readonly string[] }>(
    1,
    "A name or an id's beginning fits several hosts.",
    ({ query, matches }) => `"${query}" fits several hosts: ${matches.join(", ")}`,
    () => "give the whole id",
  ),
} as const;

const MIGRATIONS = {
  MIGRATION_UNKNOWN: entry<{ migration: string }>(
    1,
    "This host has no such migration.",
    ({ migration }) => `no migration ${migration} is known here`,
    () => "`sojourn history <domain>` lists a domain's migrations",
  ),
  MIGRATION_BUSY: entry<{ domain: string; migration: string }>(
    1,
    "The domain is already being migrated.",
    ({ domain, migration }) => `${domain} is being migrated already (${migration})`,
    ({ domain }) => `wait for it, or \`sojourn cancel ${domain}\``,
  ),
  MIGRATION_TO_SELF: entry<{ domain: string; host: string }>(
    1,
    "The destination is the host where the domain is.",
    ({ domain, host }) => `${domain} is on ${host} already`,
    () => "name another host",
  ),
  MIGRATION_CANCELLED: entry<{ domain: string; host: string; reason: string }>(
    1,
    "The migration was cancelled before its handover.",
    ({ domain, host, reason }) => `the migration was cancelled (${reason}); ${domain} stays on ${host}`,
    () => "start it again when you like: what was sent is kept",
  ),
  MIGRATION_FAILED: entry<{ domain: string; host: string; reason: string }>(
    1,
    "The migration ended before its handover.",
    ({ domain, host, reason }) => `the migration failed (${reason}); ${domain} stays on ${host}`,
    () => "remove the cause and start it again: what was sent is kept",
  ),
  MIGRATION_REFUSED: entry<{ domain: string; host: string; to: string; cause: string; reason: string }>(
    1,
    "The destination does not take the domain; `detail.cause` is its code.",
    ({ domain, host, to, cause, reason }) =>
      `${to} refuses ${domain}: ${reason} (${cause}); it stays on ${host}`,
    () => "remove the cause and start it again: nothing was changed",
  ),
  MIGRATION_UNFINISHED: entry<{ domain: string; host: string; reason: string }>(
    3,
    "The domain runs at the destination and blocks of its vbds are still at the source.",
    ({ domain, host, reason }) => `${domain} runs on ${host} and still needs the source (${reason})`,
    () => "keep both hosts up: it goes on by itself once they meet",
  ),
  MIGRATION_UNDECIDED: entry<{ domain: string; host: string; reason: string }>(
    4,
    "The handover is durable at the source and the destination has not confirmed it.",
    ({ domain, host, reason }) =>
      `${domain} was handed over to ${host}, which has not confirmed it (${reason}); it stays frozen here`,
    ({ domain, host }) => `bring ${host} up, or run \`sojourn recover ${domain}\``,
  ),
} as const;

/** What a destination refuses. */
const REFUSALS = {
  DESTINATION_FULL: entry<{ host: string; neededBytes: number; freeBytes: number }>(
    1,
    "The destination has no room for the vbds.",
    ({ host, neededBytes, freeBytes }) => `${host} needs ${neededBytes} bytes and has ${freeBytes} free`,
    ({ host }) => `make room on ${host}, or choose another host`,
  ),
  VBD_SIZE_MISMATCH: entry<{ vbd: string; sizeBytes: number; foundBytes: number }>(
    1,
    "A vbd of this name is there and has another size.",
    ({ vbd, sizeBytes, foundBytes }) =>
      `${vbd} has ${sizeBytes} bytes at the source and ${foundBytes} at the destination`,
    ({ vbd }) => `move the destination's ${vbd} out of the way`,
  ),
  VBD_RESIZED: entry<{ vbd: string; sizeBytes: number; foundBytes: number }>(
    1,
    "A vbd has another size than when the domain was created.",
    ({ vbd, sizeBytes, foundBytes }) =>
      `${vbd} was created with ${sizeBytes} bytes and has ${foundBytes} now: what its tracking knows does not fit it`,
    ({ vbd, sizeBytes }) => `give ${vbd} its ${sizeBytes} bytes again, or create the domain anew on it`,
  ),
  VBD_FORMAT: entry<{ path: string; found: string; why?: string }>(
    1,
    "A file is not the bytes that a guest would see, but an image in a format of its own.",
    ({ path, found, why }) => {
      const reason = why === undefined ? "" : `, which cannot be flattened: ${why}`;
      return `${path} is ${found}${reason}; a vbd is the bytes that its guest sees`;
    },
    ({ path, why }) =>
      why === undefined
        ? `\`sojourn create NAME --memory SIZE --image ${path} --flatten\` copies what its guest sees to a new vbd, without snapshots and on its own`
        : "make a raw image of it with `qemu-img convert -O raw`",
  ),
  VBD_BUSY: entry<{ vbd: string; holder: string }>(
    1,
    "Something else uses the vbd.",
    ({ vbd, holder }) => `${vbd} is in use by ${holder}`,
    ({ holder }) => `stop ${holder} first`,
  ),
  REPLICA_MODIFIED: entry<{ domain: string; host: string; reason: string }>(
    1,
    "A replica was written to by someone else, and the caller asked not to compare it.",
    ({ domain, host, reason }) => `${host}'s replica of ${domain} was changed (${reason})`,
    () => "allow hashes to be compared, or remove that replica",
  ),
  HYPERVISOR_UNSUPPORTED: entry<{ host: string; hypervisor: string }>(
    1,
    "The destination does not have the domain's hypervisor.",
    ({ host, hypervisor }) => `${host} cannot run domains of hypervisor "${hypervisor}"`,
    () => "set it up there, or choose another host",
  ),
  HYPERVISOR_FAILED: entry<{ domain: string; reason: string }>(
    1,
    "The hypervisor refused or failed.",
    ({ domain, reason }) => `the hypervisor failed on ${domain} (${reason})`,
    () => "its log in the domain's folder says more",
  ),
} as const;

const PEERS = {
  PEER_UNREACHABLE: entry<{ host: string; reason: string }>(
    1,
    "A host cannot be reached.",
    ({ host, reason }) => `${host} cannot be reached (${reason})`,
    () => "check that its daemon runs, and its address in `peers`",
  ),
  PEER_VERSION: entry<{ host: string; ours: number; theirs: number }>(
    1,
    "A host speaks another version of the protocol.",
    ({ host, ours, theirs }) => `${host} speaks protocol version ${theirs}, this host ${ours}`,
    () => "run the same sojourn on both",
  ),
  PEER_REFUSED: entry<{ host: string; reason: string }>(
    1,
    "A host refused for a reason that this version has no code for.",
    ({ host, reason }) => `${host} refused: ${reason}`,
    ({ host }) => `the log of ${host} says more`,
  ),
  PEER_MISBEHAVED: entry<{ reason: string }>(
    1,
    "A host broke the protocol.",
    ({ reason }) => `the other host broke the protocol (${reason})`,
    () => "run the same sojourn on both; if it is the same, report this with both daemons' logs",
  ),
} as const;

/** Who belongs to the cluster. */
const CLUSTER = {
  CLUSTER_NONE: entry<Record<string, never>>(
    1,
    "This host belongs to no cluster.",
    () => "this host belongs to no cluster",
    () => "`sojourn init` makes one while the daemon is down, `sojourn join` enters one",
  ),
  CLUSTER_ALREADY: entry<{ cluster: string; members: number }>(
    1,
    "This host is a member of another cluster, which has other hosts.",
    ({ cluster, members }) => `this host is one of ${members} members of cluster ${cluster.slice(0, 16)}`,
    () => "a host is in one cluster: use another data directory for another one",
  ),
  TOKEN_INVALID: entry<{ reason: string }>(
    2,
    "A text is no invitation.",
    ({ reason }) => `the token cannot be read: ${reason}`,
    () => "copy it again, as a whole; `sojourn invite` on a member makes a new one",
  ),
  JOIN_REFUSED: entry<{ host: string; reason: string }>(
    1,
    "A member did not let this host in.",
    ({ host, reason }) => `${host} did not let this host in: ${reason}`,
    () => "`sojourn invite` on a member makes a new token; its log says more",
  ),
  CLUSTER_FILE_EXPOSED: entry<{ file: string; mode: string }>(
    1,
    "Others can read the cluster's secrets.",
    ({ file, mode }) => `${file} holds the cluster's secrets, and others may read it (mode ${mode})`,
    ({ file }) =>
      `\`chmod 600 ${file}\`; if someone may have read it, \`sojourn rotate-secret --overlap 0s\``,
  ),
  CLUSTER_FILE_CORRUPT: entry<{ file: string; reason: string }>(
    1,
    "What this host keeps of its cluster cannot be read.",
    ({ file, reason }) => `${file} cannot be read (${reason})`,
    () => "move it away and `sojourn join` with a new token: the cluster's members know this host",
  ),
} as const;

/** What is stored. Errors of `storage/` bring their own sentence with its remedy. */
const STORED = {
  DATA_FOLDER_LOCKED: entry<{ reason: string }>(
    1,
    "Another daemon uses the data folder.",
    ({ reason }) => reason,
  ),
  DATA_FOLDER_CORRUPT: entry<{ reason: string }>(1, "The data folder is damaged.", ({ reason }) => reason),
  DATA_FOLDER_VERSION: entry<{ reason: string }>(
    1,
    "The data folder was written by a newer sojourn, or by something else.",
    ({ reason }) => reason,
  ),
  DATA_FOLDER_UNAVAILABLE: entry<{ reason: string }>(
    1,
    "The data folder cannot be used.",
    ({ reason }) => reason,
  ),
  RECORD_CORRUPT: entry<{ reason: string }>(
    1,
    "One stored record cannot be read; the others are well.",
    ({ reason }) => reason,
    () => "copy the data folder aside and report this; the other records are well",
  ),
  HOST_KEY_EXPOSED: entry<{ file: string; mode: string }>(
    1,
    "Others can read this host's key.",
    ({ file, mode }) => `${file} holds this host's key, and others may read it (mode ${mode})`,
    ({ file }) =>
      `\`chmod 600 ${file}\`; if someone may have read it, move it away for a new identity and tell the other hosts`,
  ),
  HOST_KEY_CORRUPT: entry<{ file: string; reason: string }>(
    1,
    "This host's key cannot be read.",
    ({ file, reason }) => `${file} is not a host key (${reason})`,
    () => "restore it from a backup, or move it away for a new identity and tell the other hosts",
  ),
} as const;

const OURSELVES = {
  FAULT_INJECTED: entry<{ point: string }>(
    1,
    "An armed fault point threw.",
    ({ point }) => `the fault point ${point} was armed to fail here, and did`,
    () => "none: someone wanted this",
  ),
  STOPPING: entry<Record<string, never>>(
    1,
    "The daemon is being stopped.",
    () => "the daemon is being stopped",
    () => "ask again once it runs",
  ),
  INTERNAL: entry<{ reason: string }>(
    1,
    "A failure that nobody foresaw.",
    ({ reason }) => `an unforeseen failure: ${reason}`,
    () => "the daemon's log says more; please report it",
  ),
} as const;

export const NODE_ERRORS = {
  ...WORDS,
  ...DOMAINS_AND_HOSTS,
  ...MIGRATIONS,
  ...REFUSALS,
  ...PEERS,
  ...CLUSTER,
  ...STORED,
  ...OURSELVES,
} as const;

export type NodeErrorCode = keyof typeof NODE_ERRORS;
export type NodeErrorFacts<Code extends NodeErrorCode> = Parameters<(typeof NODE_ERRORS)[Code]["message"]>[0];

/** Crosses the control socket as the `ApiError` it is. */
export class NodeError<Code extends NodeErrorCode = NodeErrorCode> extends ApiError {
  override readonly code: Code;
  override readonly detail: NodeErrorFacts<Code>;

  constructor(code: Code, facts: NodeErrorFacts<Code>, options?: ErrorOptions) {
    const { message, remedy, exitCode } = NODE_ERRORS[code] as Entry<NodeErrorFacts<Code>>;
    const advice = remedy(facts);
    const told = { code, message: message(facts), detail: { ...facts }, exitCode };
    super({ ...told, ...(advice === undefined ? {} : { remedy: advice }) }, options);
    this.name = "NodeError";
    this.code = code;
    this.detail = facts;
  }
}

export function isNodeErrorCode(code: unknown): code is NodeErrorCode {
  return typeof code === "string" && Object.hasOwn(NODE_ERRORS, code);
}

const STORAGE_CODES: ReadonlyMap<
  string,
  | "DATA_FOLDER_LOCKED"
  | "DATA_FOLDER_CORRUPT"
  | "DATA_FOLDER_VERSION"
  | "DATA_FOLDER_UNAVAILABLE"
  | "RECORD_CORRUPT"
> = new Map([
  ["METADATA_LOCKED", "DATA_FOLDER_LOCKED"],
  ["METADATA_CORRUPT", "DATA_FOLDER_CORRUPT"],
  ["METADATA_RECORDS_DROPPED", "DATA_FOLDER_CORRUPT"],
  ["METADATA_SCHEMA_NEWER", "DATA_FOLDER_VERSION"],
  ["METADATA_FOREIGN", "DATA_FOLDER_VERSION"],
  ["METADATA_UNAVAILABLE", "DATA_FOLDER_UNAVAILABLE"],
  ["METADATA_RECORD_INVALID", "RECORD_CORRUPT"],
] as const);

/**
 * What a user is told of any error, chosen by its code: it may have crossed from the other process, where its
 * class is lost. One that nobody foresaw keeps its text, and itself as `cause`.
 */
export function nodeErrorOf(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  const reason = error instanceof Error ? error.message : String(error);
  const { code, detail } = codedOf(error);
  const options = { cause: error };
  if (isNodeErrorCode(code)) return new NodeError(code, detail as NodeErrorFacts<NodeErrorCode>, options);
  const stored = STORAGE_CODES.get(code);
  if (stored !== undefined) return new NodeError(stored, { reason }, options);
  if (code === "METADATA_DOMAIN_AMBIGUOUS") {
    return new NodeError("DOMAIN_AMBIGUOUS", detail as NodeErrorFacts<"DOMAIN_AMBIGUOUS">, options);
  }
  if (code === "METADATA_CLOSED") return new NodeError("STOPPING", {}, options);
  if (code.startsWith("PROTOCOL_")) return new NodeError("PEER_MISBEHAVED", { reason }, options);
  return new NodeError("INTERNAL", { reason }, options);
}

function codedOf(error: unknown): { code: string; detail: unknown } {
  if (!(error instanceof Error) || !("code" in error) || !("detail" in error))
    return { code: "", detail: {} };
  return { code: String(error.code), detail: error.detail };
}
