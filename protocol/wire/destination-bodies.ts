/** The bodies of what a destination sends, in the order of `messages.ts`. */

import { assert } from "../errors.ts";
import { DIGEST_SIZE_BYTES, DIGESTS_PER_MESSAGE_MAX } from "../limits.ts";
import type { CopyAtDestination, DestinationMessage } from "../messages.ts";
import type { FieldReader, FieldWriter } from "./fields.ts";
import type { MessageBodies } from "./message-body.ts";
import {
  CODE_LENGTH_MAX,
  digestCountOf,
  GENERATION,
  HASH_LEVEL,
  ID_LENGTH_MAX,
  readPerVbd,
  readVersion,
  writePerVbd,
} from "./shared-fields.ts";

/** What one `pull` may ask for, at 4 KiB per block: sixteen of the largest requests of an NBD client (32 MiB). */
export const PULL_LIMITS = { runsMax: 131_072, blocksMax: 131_072 } as const;

const COPY_KIND = { none: 1, replica: 2, unknown: 3 } as const satisfies Record<
  CopyAtDestination["kind"],
  number
>;

export const DESTINATION_BODIES: MessageBodies<DestinationMessage> = {
  accept: {
    number: 0x0101,
    write({ version, session, copies, memoryTaken }, to) {
      to.integer(version);
      to.name(session, ID_LENGTH_MAX);
      writePerVbd(to, copies, (copy) => writeCopy(copy, to));
      to.integer(memoryTaken);
      return undefined;
    },
    read(from) {
      const version = readVersion(from);
      const session = from.name("session", ID_LENGTH_MAX);
      const copies = readPerVbd(from, "copies", () => readCopy(from));
      return { type: "accept", version, session, copies, memoryTaken: from.integer("memoryTaken") };
    },
  },
  refuse: {
    number: 0x0102,
    write({ code, reason }, to) {
      to.name(code, CODE_LENGTH_MAX);
      to.text(reason);
      return undefined;
    },
    read: (from) => ({
      type: "refuse",
      code: from.name("code", CODE_LENGTH_MAX),
      reason: from.text("reason"),
    }),
  },
  hashes: {
    number: 0x0103,
    write({ vbd, level, start, digests }, to) {
      assert(digests.length <= DIGESTS_PER_MESSAGE_MAX * DIGEST_SIZE_BYTES, "too many digests");
      to.integer(vbd);
      to.member(level, HASH_LEVEL);
      to.integer(start);
      return digests;
    },
    read(from) {
      const { index: vbd, shape } = from.vbd();
      const level = from.member("level", HASH_LEVEL);
      const start = from.integer("start");
      const digests = from.rest("digests", {
        min: DIGEST_SIZE_BYTES,
        max: DIGESTS_PER_MESSAGE_MAX * DIGEST_SIZE_BYTES,
      });
      const count = digests.length / DIGEST_SIZE_BYTES;
      if (!Number.isInteger(count)) throw from.wrong("digests", "not whole digests");
      if (start + count > digestCountOf(shape, level))
        throw from.wrong("digests", "beyond the end of the vbd");
      return { type: "hashes", vbd, level, start, digests };
    },
  },
  stored: {
    number: 0x0104,
    write({ ticket }, to) {
      to.integer(ticket);
      return undefined;
    },
    read: (from) => ({ type: "stored", ticket: from.integer("ticket") }),
  },
  "memory-ready": {
    number: 0x0105,
    write({ attempt }, to) {
      to.integer(attempt);
      return undefined;
    },
    read: (from) => ({ type: "memory-ready", attempt: from.integer("attempt") }),
  },
  "memory-taken": {
    number: 0x0106,
    write({ offset }, to) {
      to.integer(offset);
      return undefined;
    },
    read: (from) => ({ type: "memory-taken", offset: from.integer("offset") }),
  },
  prepared: {
    number: 0x0107,
    write: () => undefined,
    read: () => ({ type: "prepared" }),
  },
  resumed: {
    number: 0x0108,
    bitmapSets: 1,
    write({ missing }, to) {
      to.bitmaps(missing);
      return undefined;
    },
    read: (from) => ({ type: "resumed", missing: from.bitmaps("missing") }),
  },
  pull: {
    number: 0x0109,
    write({ vbd, runs }, to) {
      to.integer(vbd);
      to.runs(runs, PULL_LIMITS);
      return undefined;
    },
    read(from) {
      const { index: vbd, shape } = from.vbd();
      return { type: "pull", vbd, runs: from.runs("runs", shape, PULL_LIMITS) };
    },
  },
  synchronised: {
    number: 0x010a,
    write({ counts }, to) {
      to.integer(counts.pushed);
      to.integer(counts.pulled);
      to.integer(counts.superseded);
      to.integer(counts.late);
      return undefined;
    },
    read(from) {
      const counts = {
        pushed: from.integer("counts.pushed"),
        pulled: from.integer("counts.pulled"),
        superseded: from.integer("counts.superseded"),
        late: from.integer("counts.late"),
      };
      return { type: "synchronised", counts };
    },
  },
  failed: {
    number: 0x010b,
    write({ code, reason }, to) {
      to.name(code, CODE_LENGTH_MAX);
      to.text(reason);
      return undefined;
    },
    read: (from) => ({
      type: "failed",
      code: from.name("code", CODE_LENGTH_MAX),
      reason: from.text("reason"),
    }),
  },
  aborted: {
    number: 0x010c,
    write({ migration }, to) {
      to.name(migration, ID_LENGTH_MAX);
      return undefined;
    },
    read: (from) => ({ type: "aborted", migration: from.name("migration", ID_LENGTH_MAX) }),
  },
};

function writeCopy(copy: CopyAtDestination, to: FieldWriter): void {
  to.member(copy.kind, COPY_KIND);
  if (copy.kind === "replica") to.integer(copy.generation);
  if (copy.kind === "unknown") to.text(copy.reason);
}

function readCopy(from: FieldReader): CopyAtDestination {
  const kind = from.member("copies", COPY_KIND);
  if (kind === "replica") return { kind, generation: from.integer("copies.generation", GENERATION) };
  if (kind === "unknown") return { kind, reason: from.text("copies.reason") };
  return { kind };
}
