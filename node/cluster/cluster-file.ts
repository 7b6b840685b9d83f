/**
 * What a host keeps of its cluster: one file that only its owner may read, replaced as a whole. It holds the
 * cluster's secrets and the invitations that are open, so it is guarded as the host's key is.
 *
 *   {"format": "sojourn-cluster-v1", "genesis": …, "statements": […], "secrets": […], "invitations": […]}
 */

import { randomUUID } from "node:crypto";
import { open, rename, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { z } from "zod";
import { NodeError } from "../errors.ts";

const FORMAT = "sojourn-cluster-v1";
const OTHERS = 0o077;
/** Above what the limits of the parts add up to. */
const FILE_SIZE_MAX = 64 << 20;

const Octets = z.base64().transform((text) => new Uint8Array(Buffer.from(text, "base64")));
const Secret = Octets.refine((bytes) => bytes.length === 32, "must have 32 octets");
const TimeMs = z.number().min(0);

const Invitation = z.strictObject({
  secret: Secret,
  expiresAtMs: TimeMs,
  usesLeft: z.int().min(0),
});
/** An open one. How it is told apart: by the key id that its secret makes. */
export type Invitation = {
  readonly secret: Uint8Array;
  readonly expiresAtMs: number;
  readonly usesLeft: number;
};

const ClusterRecord = z.strictObject({
  format: z.literal(FORMAT),
  genesis: Octets,
  statements: z.array(Octets),
  secrets: z.array(z.strictObject({ epoch: z.int().min(1), othersEndAtMs: TimeMs, secret: Secret })).min(1),
  invitations: z.array(Invitation),
});
export type ClusterRecord = {
  readonly genesis: Uint8Array;
  readonly statements: readonly Uint8Array[];
  readonly secrets: readonly { epoch: number; othersEndAtMs: number; secret: Uint8Array }[];
  readonly invitations: readonly Invitation[];
};

/** Undefined when there is no such file. Throws CLUSTER_FILE_EXPOSED, CLUSTER_FILE_CORRUPT. */
export async function readClusterFile(file: string): Promise<ClusterRecord | undefined> {
  const handle = await open(file, "r").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw new NodeError("CLUSTER_FILE_CORRUPT", { file, reason: error.message }, { cause: error });
  });
  if (handle === undefined) return undefined;
  try {
    const { mode, size } = await handle.stat();
    if ((mode & OTHERS) !== 0) {
      throw new NodeError("CLUSTER_FILE_EXPOSED", {
        file,
        mode: (mode & 0o777).toString(8).padStart(4, "0"),
      });
    }
    if (size > FILE_SIZE_MAX)
      throw new NodeError("CLUSTER_FILE_CORRUPT", { file, reason: "it is too large" });
    return parse(file, await handle.readFile("utf8"));
  } finally {
    await handle.close();
  }
}

/** Durable when it completes, and whole whatever crashes. */
export async function writeClusterFile(file: string, record: ClusterRecord): Promise<void> {
  const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
  const sealed = <T extends { secret: Uint8Array }>(item: T) => ({ ...item, secret: base64(item.secret) });
  const text = JSON.stringify({
    format: FORMAT,
    genesis: base64(record.genesis),
    statements: record.statements.map(base64),
    secrets: record.secrets.map(sealed),
    invitations: record.invitations.map(sealed),
  });
  const temporary = `${file}.${randomUUID()}.tmp`;
  const handle = await open(temporary, "wx", 0o600);
  try {
    try {
      await handle.writeFile(`${text}\n`);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
  } catch (error) {
    await unlink(temporary).catch(() => undefined);
    throw error;
  }
  const folder = await open(dirname(file), "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function parse(file: string, text: string): ClusterRecord {
  try {
    const { format: _, ...record } = ClusterRecord.parse(JSON.parse(text));
    return record;
  } catch (error) {
    // Not the text of the error: it may quote what the file holds.
    const reason =
      error instanceof z.ZodError ? `wrong at ${error.issues[0]?.path.join(".")}` : "it is not JSON";
    throw new NodeError("CLUSTER_FILE_CORRUPT", { file, reason });
  }
}
