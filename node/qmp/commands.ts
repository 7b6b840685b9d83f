/**
 * The QMP commands that we use, with what they take and return: only the fields that we set or read. QEMU's
 * own reference (qemu-qmp-ref) has the rest. A returned field is QEMU's word and is checked where it is used.
 */

export type BlockdevOptions = { driver: string; "node-name"?: string } & Record<string, unknown>;

export type DirtyBitmapInfo = {
  name?: string;
  /** In bytes. */
  count: number;
  granularity: number;
  recording: boolean;
  busy: boolean;
  persistent: boolean;
  inconsistent?: boolean;
};

export type BlockNodeInfo = {
  "node-name"?: string;
  drv: string;
  file: string;
  ro: boolean;
  cache: { writeback: boolean; direct: boolean; "no-flush": boolean };
  "dirty-bitmaps"?: readonly DirtyBitmapInfo[];
  image: {
    filename: string;
    format: string;
    "virtual-size": number;
    "backing-filename"?: string;
    snapshots?: readonly { name: string }[];
  };
};

/** What occupies a guest's device; `qdev` names the device, `inserted` its medium. */
export type BlockInfo = { device: string; qdev?: string; inserted?: BlockNodeInfo };

export type RunState = { status: string; running: boolean };

export type MigrationInfo = {
  status?: string;
  "error-desc"?: string;
  "total-time"?: number;
  downtime?: number;
  ram?: {
    transferred: number;
    remaining: number;
    total: number;
    duplicate: number;
    normal: number;
    "dirty-pages-rate"?: number;
    "dirty-sync-count": number;
    "page-size"?: number;
    mbps?: number;
  };
};

type Command<Arguments, Return = Record<string, never>> = { arguments: Arguments; return: Return };
type BitmapOf = { node: string; name: string };
/** A node that occurs nowhere else; `bitmaps` may lie on others. */
type BitmapSource = string | BitmapOf;

export type TransactionAction =
  | { type: "block-dirty-bitmap-add"; data: BitmapOf & { granularity?: number; disabled?: boolean } }
  | { type: "block-dirty-bitmap-remove"; data: BitmapOf }
  | { type: "block-dirty-bitmap-clear"; data: BitmapOf }
  | { type: "block-dirty-bitmap-enable"; data: BitmapOf }
  | { type: "block-dirty-bitmap-disable"; data: BitmapOf }
  | {
      type: "block-dirty-bitmap-merge";
      data: { node: string; target: string; bitmaps: readonly BitmapSource[] };
    };

export type QmpCommands = {
  qmp_capabilities: Command<undefined>;
  "query-version": Command<undefined, { qemu: { major: number; minor: number; micro: number } }>;
  "query-name": Command<undefined, { name?: string }>;
  "query-uuid": Command<undefined, { UUID: string }>;
  "query-status": Command<undefined, RunState>;
  stop: Command<undefined>;
  cont: Command<undefined>;
  quit: Command<undefined>;
  system_powerdown: Command<undefined>;
  system_reset: Command<undefined>;
  "set-action": Command<{ reboot?: string; shutdown?: string; panic?: string; watchdog?: string }>;
  "human-monitor-command": Command<{ "command-line": string }, string>;
  "announce-self": Command<{ initial: number; max: number; rounds: number; step: number }>;

  "query-block": Command<undefined, readonly BlockInfo[]>;
  "query-named-block-nodes": Command<{ flat?: boolean }, readonly BlockNodeInfo[]>;
  "blockdev-add": Command<BlockdevOptions>;
  "blockdev-del": Command<{ "node-name": string }>;
  "blockdev-reopen": Command<{ options: readonly BlockdevOptions[] }>;
  "blockdev-mirror": Command<{
    "job-id": string;
    device: string;
    target: string;
    sync: "full" | "top" | "none";
  }>;
  block_resize: Command<{ "node-name": string; size: number }>;

  "block-dirty-bitmap-add": Command<
    BitmapOf & { granularity?: number; disabled?: boolean; persistent?: boolean }
  >;
  "block-dirty-bitmap-remove": Command<BitmapOf>;
  "block-dirty-bitmap-clear": Command<BitmapOf>;
  "block-dirty-bitmap-enable": Command<BitmapOf>;
  "block-dirty-bitmap-disable": Command<BitmapOf>;
  "block-dirty-bitmap-merge": Command<{ node: string; target: string; bitmaps: readonly BitmapSource[] }>;
  "x-debug-block-dirty-bitmap-sha256": Command<BitmapOf, { sha256: string }>;
  transaction: Command<{ actions: readonly TransactionAction[] }>;

  "nbd-server-start": Command<{
    addr: { type: "unix"; data: { path: string } } | { type: "inet"; data: { host: string; port: string } };
    "tls-creds"?: string;
    "max-connections"?: number;
  }>;
  /** Its exports end with it. */
  "nbd-server-stop": Command<undefined>;
  "block-export-add": Command<{
    type: "nbd";
    id: string;
    "node-name": string;
    name: string;
    writable?: boolean;
    bitmaps?: readonly string[];
  }>;
  "query-block-exports": Command<undefined, readonly { id: string; type: string; "node-name": string }[]>;

  /** A mirror that has caught up ends with both copies equal; `job-cancel` leaves them as they are. */
  "block-job-cancel": Command<{ device: string; force?: boolean }>;

  migrate: Command<{ uri: string }>;
  "migrate-incoming": Command<{ uri: string }>;
  "migrate-continue": Command<{ state: string }>;
  migrate_cancel: Command<undefined>;
  "query-migrate": Command<undefined, MigrationInfo>;
  "migrate-set-capabilities": Command<{ capabilities: readonly { capability: string; state: boolean }[] }>;
  "migrate-set-parameters": Command<Record<string, number | string | boolean>>;
};

export type QmpCommandName = keyof QmpCommands;
export type QmpReturn<Name extends QmpCommandName> = QmpCommands[Name]["return"];
/** One argument for commands that take some, none for the others. */
export type QmpArguments<Name extends QmpCommandName> = QmpCommands[Name]["arguments"] extends undefined
  ? []
  : [arguments: QmpCommands[Name]["arguments"]];
