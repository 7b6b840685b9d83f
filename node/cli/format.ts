/** Figures as people read them. JSON output never comes through here. */

export function formatDuration(ms: number): string {
  if (ms < 1000) return `${ms < 10 ? trimZero(ms.toFixed(1)) : Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${trimZero(seconds.toFixed(1))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
}

/** How old the word of `seenBy` is: "beta, 3 s ago". */
export function formatSeen(row: { seenBy: string; ageSeconds: number }): string {
  return row.ageSeconds < 1
    ? `${row.seenBy}, now`
    : `${row.seenBy}, ${formatDuration(row.ageSeconds * 1000)} ago`;
}

export function formatCount(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function trimZero(digits: string): string {
  return digits.replace(/\.0$/, "");
}
