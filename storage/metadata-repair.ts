/**
 * The operator's last resort for a damaged metadata folder, asked for by name and never taken by itself:
 * what comes back may be older than the truth (a domain that was handed over may look owned).
 */
import { cp, mkdir } from "node:fs/promises";
import { LevelStore } from "./level-store.ts";
import { MetadataError } from "./metadata-errors.ts";
import { RecordSpace } from "./record-space.ts";
import { DamageRecord, RepairRecord, SchemaRecord } from "./records.ts";
import { SCHEMA } from "./schema.ts";

/**
 * Copies the whole folder beside itself, then lets LevelDB repair it. From then on `LevelMetadata.repaired`
 * names the copy. Throws METADATA_LOCKED, METADATA_CORRUPT, METADATA_UNAVAILABLE.
 */
export async function repairMetadata(folder: string): Promise<{ copy: string }> {
  const copy = await copyAside(folder);
  const store = await LevelStore.repair(folder);
  try {
    const schema = new RecordSpace(store, "meta", SchemaRecord);
    const damage = new RecordSpace(store, "meta", DamageRecord);
    const repair = new RecordSpace(store, "meta", RepairRecord);
    const operations = [damage.remove("damage"), repair.put(["repair"], { copy })];
    // The version is the oldest record and so among the first to be lost. Records of another version would
    // not pass the checks of this one, so this cannot make them look right.
    if (!(await isReadable(schema))) operations.push(schema.put(["schema"], { version: SCHEMA.version }));
    await store.write(operations, { sync: true });
  } finally {
    await store.close();
  }
  return { copy };
}

async function isReadable(schema: RecordSpace<SchemaRecord>): Promise<boolean> {
  try {
    return (await schema.get("schema")) !== undefined;
  } catch (error) {
    if (error instanceof MetadataError && error.code === "METADATA_RECORD_INVALID") return false;
    throw error;
  }
}

async function copyAside(folder: string): Promise<string> {
  for (let n = 1; ; n++) {
    const copy = `${folder}.before-repair-${n}`;
    try {
      await mkdir(copy, { mode: 0o700 });
      await cp(folder, copy, { recursive: true });
      return copy;
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "EEXIST") continue;
      const reason = error instanceof Error ? error.message : String(error);
      throw new MetadataError({ code: "METADATA_UNAVAILABLE", folder, reason }, { cause: error });
    }
  }
}
