/**
 * The version of the stored format. A newer one is refused and left as it is; an older one is brought here
 * step by step, each step in one durable batch with the version it leads to.
 */
import type { KeyValueStore, WriteOperation } from "./key-value-store.ts";
import { MetadataError } from "./metadata-errors.ts";
import { RecordSpace } from "./record-space.ts";
import { SchemaRecord } from "./records.ts";

/** From schema `from` to `from + 1`. A step's operations and the new version are one synced batch. */
export type SchemaStep = {
  readonly from: number;
  /** What changes, for the log and UPGRADING.md. */
  readonly describe: string;
  readonly operations: (store: KeyValueStore) => Promise<WriteOperation[]>;
};

/** The format this code reads and writes, and the way to it from every older one. */
export type Schema = { readonly version: number; readonly steps: readonly SchemaStep[] };

export const SCHEMA: Schema = { version: 1, steps: [] };

export type SchemaOptions = {
  readonly folder: string;
  readonly schema?: Schema;
  readonly onSchemaStep?: (step: SchemaStep) => void;
};

/** Throws METADATA_SCHEMA_NEWER, METADATA_FOREIGN; then nothing was changed. */
export async function bringToSchema(store: KeyValueStore, options: SchemaOptions): Promise<void> {
  const { folder, schema = SCHEMA, onSchemaStep } = options;
  const records = new RecordSpace(store, "meta", SchemaRecord);
  const found = await records.get("schema");
  if (found === undefined) {
    if ((await store.keys({ prefix: "", limit: 1 })).length > 0) {
      throw new MetadataError({ code: "METADATA_FOREIGN", folder });
    }
    await store.write([records.put(["schema"], { version: schema.version })], { sync: true });
    return;
  }
  if (found.version > schema.version) {
    throw new MetadataError({
      code: "METADATA_SCHEMA_NEWER",
      folder,
      found: found.version,
      known: schema.version,
    });
  }
  for (let version = found.version; version < schema.version; version++) {
    const step = schema.steps.find(({ from }) => from === version);
    if (step === undefined) throw new Error(`no step leads from schema ${version}`);
    onSchemaStep?.(step);
    const operations = await step.operations(store);
    await store.write([...operations, records.put(["schema"], { version: version + 1 })], { sync: true });
  }
}
