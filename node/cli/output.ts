/** What a command says: tables and sentences for people, JSON for programs, failures on stderr. */

import type { ApiErrorBody } from "../control/api.ts";
import { nodeErrorOf } from "../errors.ts";

export type Column<Row> = {
  title: string;
  align?: "left" | "right";
  cell: (row: Row) => string;
};

/** Aligned columns, two spaces apart; nothing but the heading when there are no rows. */
export function formatTable<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string {
  const cells = [
    columns.map((column) => column.title),
    ...rows.map((row) => columns.map((column) => printable(column.cell(row)))),
  ];
  const widths = columns.map((_, index) => Math.max(...cells.map((line) => line[index]!.length)));
  const lines = cells.map((line) =>
    line
      .map((cell, index) =>
        columns[index]!.align === "right" ? cell.padStart(widths[index]!) : cell.padEnd(widths[index]!),
      )
      .join("  ")
      .trimEnd(),
  );
  return `${lines.join("\n")}\n`;
}

/** `name  value` lines under a heading, values aligned. */
export function formatFields(
  fields: readonly (readonly [name: string, value: string | undefined])[],
): string {
  const shown = fields.filter((field): field is readonly [string, string] => field[1] !== undefined);
  const width = Math.max(0, ...shown.map(([name]) => name.length));
  return shown.map(([name, value]) => `  ${name.padEnd(width)}  ${printable(value)}\n`).join("");
}

/** Names and reasons come from other hosts: none of them may move a terminal's cursor. */
export function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, "?");
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

/** A command line that cannot be carried out as it stands: exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

export function describeFailure(cause: unknown, helpHint: string): ApiErrorBody {
  if (cause instanceof UsageError) {
    return { code: "USAGE", message: cause.message, remedy: helpHint, exitCode: 2 };
  }
  const body = nodeErrorOf(cause).toBody();
  if (body.code !== "INTERNAL" || !(cause instanceof Error && "code" in cause && "detail" in cause))
    return body;
  // A failure that storage foresaw, met without a daemon: its own code says more than ours.
  return { code: String(cause.code), message: cause.message, exitCode: body.exitCode };
}

/** One line of JSON for programs; for people the sentence, the code to look up, and what to do. */
export function printFailure(failure: ApiErrorBody, options: { json: boolean }): void {
  if (options.json) {
    process.stderr.write(`${JSON.stringify({ error: failure })}\n`);
    return;
  }
  const [sentence = "", ...lines] = failure.message.split("\n").map(printable);
  process.stderr.write(`${[`sojourn: ${sentence} (${printable(failure.code)})`, ...lines].join("\n")}\n`);
  if (failure.remedy !== undefined) process.stderr.write(`  remedy: ${printable(failure.remedy)}\n`);
}
