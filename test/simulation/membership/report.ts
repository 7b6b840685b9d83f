/** Prints what the membership simulation measured, a line for each row as it comes. */

export type Row = {
  readonly name: string;
  /** Times in milliseconds; `messages` and `bytes` per host and second. */
  readonly value: Readonly<Record<string, number>>;
  /** What is published of memberlist. */
  readonly published: string;
  /** How long, or how often. */
  readonly simulated: string;
  readonly holds: boolean;
};

export type Report = { readonly hosts: number; readonly seed: number; readonly rows: Row[] };

export function printReport({ hosts, seed, rows }: Report, { heading }: { heading: boolean }): void {
  if (heading) {
    console.log(`membership: ${hosts} hosts, seed ${seed}, memberlist's LAN timings, virtual time\n`);
  }
  for (const { name, value, published, simulated, holds } of rows) {
    const figures = Object.entries(value).map(([key, figure]) => `${key} ${shortened(figure)}`);
    console.log(`${holds ? " " : "!"} ${name}  [${simulated}]`);
    console.log(`      here         ${figures.join(", ")}`);
    if (published !== "-") console.log(`      memberlist   ${published}`);
  }
}

function shortened(figure: number): string {
  if (Number.isNaN(figure)) return "never";
  if (Number.isInteger(figure)) return String(figure);
  return figure.toFixed(Math.abs(figure) < 10 ? 2 : 0);
}
