/**
 * This host's identity: an Ed25519 key in a file that only its owner may read. Its public half is the host's id,
 * and what every other host knows it by, so the file is never replaced and never made anew beside a bad one.
 *
 *   sojourn-host-key-v1 <the private key as libp2p's protobuf, base64>
 */
import { randomUUID } from "node:crypto";
import { link, mkdir, open, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { generateKeyPair, privateKeyFromProtobuf, privateKeyToProtobuf } from "@libp2p/crypto/keys";
import type { Ed25519PrivateKey } from "@libp2p/interface";
import { peerIdFromPrivateKey } from "@libp2p/peer-id";
import { NodeError } from "./errors.ts";

export type Identity = {
  readonly privateKey: Ed25519PrivateKey;
  /** The libp2p peer id as text: the `HostId` of every record and message. */
  readonly hostId: string;
};

const FORMAT = "sojourn-host-key-v1";
const OTHERS = 0o077;

/** The key in `file`; a new one when there is no such file. Throws HOST_KEY_EXPOSED, HOST_KEY_CORRUPT. */
export async function loadOrCreateIdentity(file: string): Promise<Identity> {
  const existing = await loadIdentity(file);
  if (existing !== undefined) return existing;
  await writeKey(file, await generateKeyPair("Ed25519"));
  // Read back, and of two processes that made one at the same time both take the one that is there.
  const created = await loadIdentity(file);
  if (created === undefined) throw new NodeError("HOST_KEY_CORRUPT", { file, reason: "it vanished" });
  return created;
}

/** Undefined when there is no such file. Throws HOST_KEY_EXPOSED, HOST_KEY_CORRUPT. */
export async function loadIdentity(file: string): Promise<Identity | undefined> {
  const handle = await open(file, "r").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw new NodeError("HOST_KEY_CORRUPT", { file, reason: error.message }, { cause: error });
  });
  if (handle === undefined) return undefined;
  try {
    const { mode } = await handle.stat();
    if ((mode & OTHERS) !== 0) {
      throw new NodeError("HOST_KEY_EXPOSED", { file, mode: (mode & 0o777).toString(8).padStart(4, "0") });
    }
    const privateKey = parseKey(file, await handle.readFile("utf8"));
    return { privateKey, hostId: peerIdFromPrivateKey(privateKey).toString() };
  } finally {
    await handle.close();
  }
}

function parseKey(file: string, text: string): Ed25519PrivateKey {
  const match = new RegExp(`^${FORMAT} ([A-Za-z0-9+/]+=*)\\n$`).exec(text);
  if (match === null)
    throw new NodeError("HOST_KEY_CORRUPT", { file, reason: `it does not read "${FORMAT} …"` });
  try {
    const key = privateKeyFromProtobuf(Buffer.from(match[1]!, "base64"));
    if (key.type === "Ed25519") return key;
    throw new Error(`the key's type is ${key.type}`);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new NodeError("HOST_KEY_CORRUPT", { file, reason }, { cause: error });
  }
}

/** Durable when it completes. Leaves a key that is already there alone, also one that appears meanwhile. */
async function writeKey(file: string, key: Ed25519PrivateKey): Promise<void> {
  const folder = dirname(file);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const temporary = `${file}.${randomUUID()}.tmp`;
  const handle = await open(temporary, "wx", 0o600);
  try {
    try {
      await handle.writeFile(`${FORMAT} ${Buffer.from(privateKeyToProtobuf(key)).toString("base64")}\n`);
      await handle.sync();
    } finally {
      await handle.close();
    }
    // A link, not a rename: it cannot replace a key.
    await link(temporary, file).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    });
  } finally {
    await unlink(temporary);
  }
  const folderHandle = await open(folder, "r");
  try {
    await folderHandle.sync();
  } finally {
    await folderHandle.close();
  }
}
