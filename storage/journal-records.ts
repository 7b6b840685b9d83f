/**
 * The journal's records: the two halves' own `persist` records, checked field by field. `JournalEntry`'s
 * checks are tied to the protocol's types, so a record that gains a field there does not compile here
 * until it is stored, too.
 */
import { z } from "zod";
import type { DestinationRecord } from "../protocol/destination.ts";
import { NAME_LENGTH_MAX, VBDS_MAX } from "../protocol/limits.ts";
import type { SourceRecord } from "../protocol/source.ts";
import { VbdShape } from "./records.ts";

const Id = z.string().min(1).max(256);
const Generation = z.int().min(0);
const Count = z.int().min(0);
const Reason = z.string().max(1 << 20);

const PostCopyCounts = z.strictObject({ pushed: Count, pulled: Count, superseded: Count, late: Count });

const DomainDescription = z.strictObject({
  id: Id,
  name: z.string().min(1).max(NAME_LENGTH_MAX),
  hypervisor: z.string().min(1).max(64),
  memoryBytes: Count,
  config: z.string().max(1 << 20),
  vbds: z.array(VbdShape).max(VBDS_MAX).readonly(),
});

const SourceRecordSchema = z.discriminatedUnion("phase", [
  z.strictObject({ phase: z.literal("begun"), migration: Id, destination: Id, generation: Generation }),
  z.strictObject({ phase: z.literal("handed-over"), migration: Id, destination: Id, generation: Generation }),
  z.strictObject({
    phase: z.literal("completed"),
    migration: Id,
    destination: Id,
    generation: Generation,
    counts: PostCopyCounts,
  }),
  z.strictObject({
    phase: z.literal("aborted"),
    migration: Id,
    destination: Id,
    generation: Generation,
    reason: Reason,
  }),
]);

const incoming = { migration: Id, source: Id, domain: DomainDescription, generation: Generation };

const DestinationRecordSchema = z.discriminatedUnion("phase", [
  z.strictObject({ phase: z.literal("receiving"), ...incoming }),
  z.strictObject({ phase: z.literal("prepared"), ...incoming }),
  z.strictObject({ phase: z.literal("owner"), ...incoming }),
  z.strictObject({ phase: z.literal("synchronised"), ...incoming, counts: PostCopyCounts }),
  z.strictObject({ phase: z.literal("aborted"), migration: Id, reason: Reason }),
]);

/** Fails to compile unless each side can stand for the other, fields included. */
type Same<A, B> = [A] extends [B]
  ? [DeepKeys<A>] extends [DeepKeys<B>]
    ? [DeepKeys<B>] extends [DeepKeys<A>]
      ? true
      : never
    : never
  : never;
type DeepKeys<T> = T extends readonly (infer Item)[]
  ? DeepKeys<Item>
  : T extends object
    ? { [K in keyof T & string]: K | `${K}.${DeepKeys<T[K]>}` }[keyof T & string]
    : never;

const sourceRecordIsComplete: Same<z.infer<typeof SourceRecordSchema>, SourceRecord> = true;
const destinationRecordIsComplete: Same<z.infer<typeof DestinationRecordSchema>, DestinationRecord> = true;
void [sourceRecordIsComplete, destinationRecordIsComplete];

const JournalEntrySchema = z.discriminatedUnion("role", [
  z.strictObject({ role: z.literal("source"), domain: Id, record: SourceRecordSchema }),
  z.strictObject({ role: z.literal("destination"), domain: Id, record: DestinationRecordSchema }),
]);

/** What this host durably knows of one migration; `record.migration` is its key. */
export type JournalEntry =
  | { role: "source"; domain: string; record: SourceRecord }
  | { role: "destination"; domain: string; record: DestinationRecord };

export const JournalEntry: z.ZodType<JournalEntry> = JournalEntrySchema;
