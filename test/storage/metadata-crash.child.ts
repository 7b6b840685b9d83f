/**
 * Writes to a LevelMetadata without end and says on stdout what was acknowledged, one line each; the test kills
 * it in the middle. Or writes SYNC_COUNT records and ends, so that the test can count syncs.
 * Usage: metadata-crash.child.ts <folder> puts|commits|synced|unsynced
 */
import { writeSync } from "node:fs";
import { LevelMetadata } from "../../storage/metadata.ts";
import { domainRecord, placementRecord, replicaRecord, sourceEntry } from "../contract/metadata-records.ts";

const SYNC_COUNT = 25;

const [folder = "", mode] = process.argv.slice(2);
const metadata = await LevelMetadata.open({ folder });

/** Written at once: a line that sat in a buffer when the kill came would hide an acknowledgement. */
const say = (line: string) => writeSync(1, `${line}\n`);

async function puts(): Promise<never> {
  for (let n = 1; ; n++) {
    await Promise.all([0, 1, 2].map((lane) => metadata.journal.put(sourceEntry(`${lane}-${n}`))));
    say(`${n}`);
  }
}

/** A domain goes to and fro: each step is one fact in four records. */
async function commits(): Promise<never> {
  for (let n = 1; ; n++) {
    const bitmap = new Uint8Array(300 << 10).fill(n % 256);
    await metadata.journal.commit({
      journal: sourceEntry("m", n % 2 === 0 ? "begun" : "handed-over"),
      domain: domainRecord({ id: "d", generation: n }),
      replicas: [replicaRecord({ generation: n })],
      log: { domain: "d", entries: [{ first: 1, last: n, written: [bitmap] }] },
    });
    say(`${n}`);
  }
}

async function counted(sync: boolean): Promise<void> {
  for (let n = 0; n < SYNC_COUNT; n++) await metadata.placements.put(placementRecord({ seq: n }), { sync });
  await metadata.close();
}

if (mode === "commits") await commits();
else if (mode === "puts") await puts();
else await counted(mode === "synced");
