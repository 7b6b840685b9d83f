/**
 * The client's half of the negotiation: structured replies and metadata contexts where the server has them, then GO.
 * It is one linear exchange that ends with the connection, so it is written as one; every wait ends with the socket.
 */
import type { Socket } from "node:net";
import { encodeGo, encodeMetaContexts, encodeOption } from "./client-codec.ts";
import {
  BLOCK_SIZE_BYTES_MIN,
  BLOCK_SIZE_BYTES_PREFERRED,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_IHAVEOPT,
  NBD_INFO,
  NBD_MAGIC,
  NBD_OPT,
  NBD_OPT_REPLY_MAGIC,
  NBD_REP,
  PAYLOAD_SIZE_BYTES_MAX,
  STRING_SIZE_BYTES_MAX,
} from "./constants.ts";
import { NbdError } from "./errors.ts";

/** What the server said about the export, and what was agreed on. */
export type NbdExportInfo = {
  sizeBytes: number;
  /** NBD_FLAG bits. */
  transmissionFlags: number;
  structuredReplies: boolean;
  /** The contexts that were granted, by the number that stands for them in replies. */
  contexts: ReadonlyMap<number, string>;
  blockSizes: { min: number; preferred: number; max: number };
};

const REPLY_SIZE_BYTES_MAX = STRING_SIZE_BYTES_MAX * 2 + 64;
/** Replies to one option; a server that sends more does so without end. */
const REPLIES_MAX = 1024;

type OptionReply = { type: number; data: Buffer };

/** Takes octets in exact amounts from a socket; what is left afterwards belongs to whoever reads next. */
export class OctetReader {
  readonly #socket: Socket;
  #buffered: Buffer = Buffer.alloc(0);
  #wanted = 0;
  #resolve: ((bytes: Buffer) => void) | undefined;
  #reject: ((error: NbdError) => void) | undefined;
  #lost: NbdError | undefined;
  readonly #onData = (bytes: Buffer): void => this.#received(bytes);
  readonly #onClose = (): void => this.#closed();

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", this.#onData);
    socket.on("close", this.#onClose);
    socket.on("end", this.#onClose);
  }

  take(sizeBytes: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.#wanted = sizeBytes;
      this.#resolve = resolve;
      this.#reject = reject;
      this.#serve();
    });
  }

  /** Lets go of the socket, paused, and returns what was received beyond what was taken. */
  release(): Buffer {
    this.#socket.pause();
    this.#socket.off("data", this.#onData);
    this.#socket.off("close", this.#onClose);
    this.#socket.off("end", this.#onClose);
    return this.#buffered;
  }

  #received(bytes: Buffer): void {
    this.#buffered = this.#buffered.length === 0 ? bytes : Buffer.concat([this.#buffered, bytes]);
    this.#serve();
  }

  #closed(): void {
    this.#lost = new NbdError({ code: "NBD_CONNECTION_LOST", reason: "closed in the negotiation" });
    this.#serve();
  }

  #serve(): void {
    const resolve = this.#resolve;
    if (resolve === undefined) return;
    if (this.#buffered.length >= this.#wanted) {
      this.#resolve = undefined;
      const taken = this.#buffered.subarray(0, this.#wanted);
      this.#buffered = this.#buffered.subarray(this.#wanted);
      resolve(taken);
    } else if (this.#lost !== undefined) {
      this.#resolve = undefined;
      this.#reject?.(this.#lost);
    }
  }
}

export async function negotiate(
  { socket, reader }: { socket: Socket; reader: OctetReader },
  {
    exportName,
    contexts: wanted,
    structuredReplies: asked = true,
  }: { exportName: string; contexts: readonly string[]; structuredReplies?: boolean },
): Promise<NbdExportInfo> {
  const greeting = await reader.take(18);
  if (greeting.readBigUInt64BE(0) !== NBD_MAGIC || greeting.readBigUInt64BE(8) !== NBD_IHAVEOPT) {
    throw protocolError("not an NBD server of the newstyle");
  }
  const serverFlags = greeting.readUInt16BE(16);
  if ((serverFlags & NBD_FLAG_FIXED_NEWSTYLE) === 0) throw protocolError("no fixed newstyle");
  const clientFlags = Buffer.alloc(4);
  const noZeroes = (serverFlags & NBD_FLAG_NO_ZEROES) === 0 ? 0 : NBD_FLAG_C_NO_ZEROES;
  clientFlags.writeUInt32BE(NBD_FLAG_C_FIXED_NEWSTYLE | noZeroes);
  socket.write(clientFlags);

  const exchange = async (option: number, data?: Buffer): Promise<OptionReply[]> => {
    socket.write(encodeOption(option, data));
    return readReplies(reader, option);
  };
  const structuredReplies = asked && lastOf(await exchange(NBD_OPT.STRUCTURED_REPLY)).type === NBD_REP.ACK;
  const contexts = new Map<number, string>();
  if (structuredReplies && wanted.length > 0) {
    const replies = await exchange(NBD_OPT.SET_META_CONTEXT, encodeMetaContexts(exportName, wanted));
    for (const { type, data } of replies) {
      if (type === NBD_REP.META_CONTEXT && data.length >= 4) {
        contexts.set(data.readUInt32BE(0), data.subarray(4).toString());
      }
    }
    // An export that is not there is told by GO.
  }
  const replies = await exchange(NBD_OPT.GO, encodeGo(exportName));
  const { type } = lastOf(replies);
  if (type === NBD_REP.ERR_UNKNOWN || type === NBD_REP.ERR_SHUTDOWN) {
    throw new NbdError({ code: "NBD_EXPORT_UNKNOWN", reply: type });
  }
  if (type !== NBD_REP.ACK)
    throw new NbdError({ code: "NBD_OPTION_REFUSED", option: NBD_OPT.GO, reply: type });
  return { ...exportInfo(replies), structuredReplies, contexts };
}

async function readReplies(reader: OctetReader, option: number): Promise<OptionReply[]> {
  const replies: OptionReply[] = [];
  for (;;) {
    const header = await reader.take(20);
    if (header.readBigUInt64BE(0) !== NBD_OPT_REPLY_MAGIC)
      throw protocolError("bad magic of an option reply");
    if (header.readUInt32BE(8) !== option) throw protocolError("a reply to another option");
    const type = header.readUInt32BE(12);
    const length = header.readUInt32BE(16);
    if (length > REPLY_SIZE_BYTES_MAX) throw protocolError("an option reply that is too large");
    replies.push({ type, data: Buffer.from(await reader.take(length)) });
    if (type === NBD_REP.ACK || type >= NBD_REP.ERR_UNSUP - 1) return replies;
    if (replies.length > REPLIES_MAX) throw protocolError("option replies without end");
  }
}

function lastOf(replies: readonly OptionReply[]): OptionReply {
  return replies[replies.length - 1]!;
}

function exportInfo(
  replies: readonly OptionReply[],
): Pick<NbdExportInfo, "sizeBytes" | "transmissionFlags" | "blockSizes"> {
  let about: { sizeBytes: number; transmissionFlags: number } | undefined;
  // What the specification lets a client assume of a server that says nothing.
  let blockSizes = {
    min: BLOCK_SIZE_BYTES_MIN,
    preferred: BLOCK_SIZE_BYTES_PREFERRED,
    max: PAYLOAD_SIZE_BYTES_MAX,
  };
  for (const { type, data } of replies) {
    if (type !== NBD_REP.INFO || data.length < 2) continue;
    const kind = data.readUInt16BE(0);
    if (kind === NBD_INFO.EXPORT && data.length === 12) {
      about = { sizeBytes: Number(data.readBigUInt64BE(2)), transmissionFlags: data.readUInt16BE(10) };
    } else if (kind === NBD_INFO.BLOCK_SIZE && data.length === 14) {
      blockSizes = { min: data.readUInt32BE(2), preferred: data.readUInt32BE(6), max: data.readUInt32BE(10) };
    }
  }
  if (about === undefined || !Number.isSafeInteger(about.sizeBytes))
    throw protocolError("no size of the export");
  return { ...about, blockSizes };
}

function protocolError(reason: string): NbdError {
  return new NbdError({ code: "NBD_PROTOCOL", reason });
}
