const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
export function formatSize(bytes: number): string {
  let i = 0;
  while (bytes >= 1024 && i < 4) {
    bytes /= 1024;
    i++;
  }
  return `${Number(bytes.toFixed(1))} ${UNITS[i]}`;
}
export function parseSize(text: string): number {
  const m = /^(\d+)(B|KiB|MiB|GiB|TiB)?$/.exec(text);
  if (!m) throw new Error("bad");
  return Number(m[1]) * 1024 ** Math.max(0, UNITS.indexOf(m[2] ?? "B"));
}
