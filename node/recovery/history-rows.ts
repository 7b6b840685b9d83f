/** The stays of a domain: the certificates of custody say who had it when, this host's own records what each hop cost. */

import type { Metadata } from "../../storage/metadata.ts";
import type { HistoryRecord } from "../../storage/records.ts";
import type { CustodyReport, HistoryRow, HopReport } from "../control/api.ts";

export type HistoryRowsParts = { metadata: Pick<Metadata, "history">; nameOf(host: string): string };

export async function historyRows(
  { metadata, nameOf }: HistoryRowsParts,
  { domain, certificates }: CustodyReport,
): Promise<HistoryRow[]> {
  const rows = new Map<number, HistoryRow>();
  const [first] = certificates;
  // Its own stay has no certificate: nobody had it before.
  if (first?.generation === 2) rows.set(1, { generation: 1, host: first.from, hostName: first.fromName });
  for (const { generation, to, toName, fromName, kind, timeMs, signedBy } of certificates) {
    const startedAt = new Date(timeMs).toISOString();
    const custody = { kind, fromName, signedBy };
    rows.set(generation, { generation, host: to, hostName: toName, startedAt, custody });
  }
  for (const hop of await metadata.history.list(domain)) {
    const row = rowOf(hop, nameOf);
    const known = rows.get(row.generation);
    rows.set(row.generation, known === undefined ? row : { ...row, ...known, ...figuresOf(hop) });
  }
  return [...rows.values()].sort((a, b) => a.generation - b.generation);
}

function rowOf(hop: HistoryRecord, nameOf: (host: string) => string): HistoryRow {
  return {
    generation: hop.generation + 1,
    host: hop.to,
    hostName: nameOf(hop.to),
    startedAt: new Date(hop.endedAt).toISOString(),
    ...figuresOf(hop),
  };
}

function figuresOf({ outcome, figures }: HistoryRecord): Pick<HistoryRow, "hop" | "recovered"> {
  const facts = JSON.parse(figures) as Record<string, unknown>;
  return outcome === "completed" ? { hop: facts as HopReport } : { recovered: { outcome, facts } };
}
