/**
 * The server's half of the negotiation (fixed newstyle), as a state machine.
 *
 *   client-flags ──▶ option ⇄ option-data ──GO, EXPORT_NAME──▶ transmission
 *                      ⇅            │
 *                   skipping        └──ABORT, nonsense──▶ closed
 *
 * Each state says how many octets it wants next, and `step` is called with exactly those: the driver never holds more
 * than one option, and the largest is OPTION_SIZE_BYTES_MAX. The data of a larger one passes by and is refused.
 * `step` does no I/O; it returns the next state and what to send.
 */
import {
  META_CONTEXTS_MAX,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_IHAVEOPT,
  NBD_MAGIC,
  NBD_OPT,
  NBD_REP,
  OPTION_SIZE_BYTES_MAX,
  OPTIONS_MAX,
} from "./constants.ts";
import type { ExportEntry } from "./export-registry.ts";
import { listQueryMatches, type MetadataContext } from "./metadata-contexts.ts";
import {
  decodeGo,
  decodeMetaContexts,
  decodeName,
  exportNameReply,
  infoReplies,
  metaContextReply,
  optionReply,
  serverReply,
} from "./option-codec.ts";

/** A context that the client selected, and the number that stands for it in replies. */
export type SelectedContext = { id: number; context: MetadataContext };

/** What the client and we agreed on so far. */
export type Negotiated = {
  fixedNewstyle: boolean;
  noZeroes: boolean;
  structuredReplies: boolean;
  /** Selected for this entry and no other: GO for another export drops them. */
  selection: { entry: ExportEntry; contexts: readonly SelectedContext[] } | undefined;
  optionsSeen: number;
};

export type HandshakeState =
  | { phase: "client-flags" }
  | { phase: "option"; negotiated: Negotiated }
  | { phase: "option-data"; negotiated: Negotiated; option: number; length: number }
  /** The option is too large to be looked at. */
  | { phase: "skipping"; negotiated: Negotiated; option: number; left: number }
  | {
      phase: "transmission";
      entry: ExportEntry;
      structuredReplies: boolean;
      contexts: readonly SelectedContext[];
    }
  | { phase: "closed"; reason: string };

export type HandshakeStep = readonly [HandshakeState, readonly Buffer[]];

/** The exports that a client can negotiate. */
export interface ExportLookup {
  find(name: string): ExportEntry | undefined;
  listed(): readonly { name: string; description: string }[];
}

export function greeting(): Buffer {
  const bytes = Buffer.alloc(18);
  bytes.writeBigUInt64BE(NBD_MAGIC, 0);
  bytes.writeBigUInt64BE(NBD_IHAVEOPT, 8);
  bytes.writeUInt16BE(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES, 16);
  return bytes;
}

/** How many octets `step` must be called with. Zero in the final phases, and for an option without data. */
export function octetsWanted(state: HandshakeState): number {
  switch (state.phase) {
    case "client-flags":
      return 4;
    case "option":
      return 16;
    case "option-data":
      return state.length;
    case "skipping":
      return Math.min(state.left, OPTION_SIZE_BYTES_MAX);
    case "transmission":
    case "closed":
      return 0;
  }
}

export function step(state: HandshakeState, bytes: Buffer, exports: ExportLookup): HandshakeStep {
  switch (state.phase) {
    case "client-flags":
      return clientFlags(bytes);
    case "option":
      return optionHeader(state.negotiated, bytes);
    case "option-data":
      return optionData(state, bytes, exports);
    case "skipping": {
      const left = state.left - bytes.length;
      if (left > 0) return [{ ...state, left }, []];
      return again(state.negotiated, optionReply(state.option, NBD_REP.ERR_TOO_BIG));
    }
    case "transmission":
    case "closed":
      return [state, []];
  }
}

function clientFlags(bytes: Buffer): HandshakeStep {
  const flags = bytes.readUInt32BE(0);
  // The specification wants the connection dropped: what an unknown bit changes, we cannot know.
  if ((flags & ~(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) !== 0)
    return closed("unknown client flags");
  const fixedNewstyle = (flags & NBD_FLAG_C_FIXED_NEWSTYLE) !== 0;
  const noZeroes = (flags & NBD_FLAG_C_NO_ZEROES) !== 0;
  const selection = undefined;
  return again({ fixedNewstyle, noZeroes, structuredReplies: false, selection, optionsSeen: 0 });
}

function optionHeader(before: Negotiated, bytes: Buffer): HandshakeStep {
  if (bytes.readBigUInt64BE(0) !== NBD_IHAVEOPT) return closed("bad option magic");
  const option = bytes.readUInt32BE(8);
  const length = bytes.readUInt32BE(12);
  const negotiated = { ...before, optionsSeen: before.optionsSeen + 1 };
  if (negotiated.optionsSeen > OPTIONS_MAX) return closed("too many options");
  // A plain newstyle client would not understand a reply to anything else.
  if (!negotiated.fixedNewstyle && option !== NBD_OPT.EXPORT_NAME)
    return closed("option without fixed newstyle");
  if (length <= OPTION_SIZE_BYTES_MAX) return [{ phase: "option-data", negotiated, option, length }, []];
  if (option === NBD_OPT.EXPORT_NAME) return closed("name too long");
  return [{ phase: "skipping", negotiated, option, left: length }, []];
}

function optionData(
  { option, negotiated }: Extract<HandshakeState, { phase: "option-data" }>,
  data: Buffer,
  exports: ExportLookup,
): HandshakeStep {
  switch (option) {
    case NBD_OPT.EXPORT_NAME:
      return exportName(negotiated, data, exports);
    case NBD_OPT.ABORT:
      return [{ phase: "closed", reason: "aborted by the client" }, [optionReply(option, NBD_REP.ACK)]];
    case NBD_OPT.LIST:
      if (data.length > 0) return refuse(negotiated, option, NBD_REP.ERR_INVALID);
      return again(
        negotiated,
        ...exports.listed().map(({ name, description }) => serverReply(option, name, description)),
        optionReply(option, NBD_REP.ACK),
      );
    case NBD_OPT.INFO:
    case NBD_OPT.GO:
      return infoOrGo(negotiated, option, data, exports);
    case NBD_OPT.STRUCTURED_REPLY:
      if (data.length > 0) return refuse(negotiated, option, NBD_REP.ERR_INVALID);
      return again({ ...negotiated, structuredReplies: true }, optionReply(option, NBD_REP.ACK));
    case NBD_OPT.LIST_META_CONTEXT:
    case NBD_OPT.SET_META_CONTEXT:
      return metaContexts(negotiated, option, data, exports);
    default:
      // STARTTLS among them: what crosses hosts is encrypted below us, and this server is local to one.
      return refuse(negotiated, option, NBD_REP.ERR_UNSUP);
  }
}

function exportName(negotiated: Negotiated, data: Buffer, exports: ExportLookup): HandshakeStep {
  const name = decodeName(data);
  const entry = name === undefined ? undefined : exports.find(name);
  // This option has no way to say no.
  if (entry === undefined) return closed("unknown export");
  const flags = entry.transmissionFlags(negotiated);
  return [begin(negotiated, entry), [exportNameReply(entry.sizeBytes, flags, negotiated.noZeroes)]];
}

function infoOrGo(
  negotiated: Negotiated,
  option: number,
  data: Buffer,
  exports: ExportLookup,
): HandshakeStep {
  const request = decodeGo(data);
  if (request === undefined) return refuse(negotiated, option, NBD_REP.ERR_INVALID);
  const entry = exports.find(request.name);
  if (entry === undefined) return refuse(negotiated, option, NBD_REP.ERR_UNKNOWN);
  const replies = infoReplies(option, request, entry, entry.transmissionFlags(negotiated));
  replies.push(optionReply(option, NBD_REP.ACK));
  return option === NBD_OPT.GO ? [begin(negotiated, entry), replies] : again(negotiated, ...replies);
}

function metaContexts(
  negotiated: Negotiated,
  option: number,
  data: Buffer,
  exports: ExportLookup,
): HandshakeStep {
  const selects = option === NBD_OPT.SET_META_CONTEXT;
  // A failed selection leaves none: the specification wants the client to begin anew.
  const after = selects ? { ...negotiated, selection: undefined } : negotiated;
  const request = decodeMetaContexts(data);
  if (request === undefined || !negotiated.structuredReplies)
    return refuse(after, option, NBD_REP.ERR_INVALID);
  const entry = exports.find(request.name);
  if (entry === undefined) return refuse(after, option, NBD_REP.ERR_UNKNOWN);
  const offered = entry.contextNames();
  const ack = optionReply(option, NBD_REP.ACK);
  if (!selects) {
    const queries = request.queries.length === 0 ? [""] : request.queries;
    const found = offered.filter(({ name }) => queries.some((query) => listQueryMatches(query, name)));
    return again(after, ...found.map(({ name }) => metaContextReply(option, 0, name)), ack);
  }
  const contexts = offered
    .filter(({ name }) => request.queries.includes(name))
    .slice(0, META_CONTEXTS_MAX)
    .map((context, index) => ({ id: index + 1, context }));
  const replies = contexts.map(({ id, context }) => metaContextReply(option, id, context.name));
  return again({ ...after, selection: { entry, contexts } }, ...replies, ack);
}

function begin(negotiated: Negotiated, entry: ExportEntry): HandshakeState {
  const { structuredReplies, selection } = negotiated;
  const contexts = selection?.entry === entry ? selection.contexts : [];
  return { phase: "transmission", entry, structuredReplies, contexts };
}

function again(negotiated: Negotiated, ...replies: Buffer[]): HandshakeStep {
  return [{ phase: "option", negotiated }, replies];
}

function refuse(negotiated: Negotiated, option: number, reply: number): HandshakeStep {
  return again(negotiated, optionReply(option, reply));
}

function closed(reason: string): HandshakeStep {
  return [{ phase: "closed", reason }, []];
}
