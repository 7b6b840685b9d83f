/**
 * What the paper's authors report of their prototype (Cluster 2008): two hosts with SATA disks on a Gigabit LAN, a
 * guest with 512 MB of memory and a disk of 39,070 MB, all of which counts as allocated. Times are of the disk
 * alone. We have not measured any of this; it stands beside our figures for their proportions.
 */

export type PaperRow = {
  workload: string;
  totalMs: number;
  downtimeMs: number;
  dataMegabytes: number;
  backMs: number;
  backMegabytes: number;
};

/** By the workload of ours that is like theirs. */
export const PAPER_ROWS: Readonly<Record<string, PaperRow>> = {
  web: {
    workload: "SPECweb2005 Banking",
    totalMs: 796_100,
    downtimeMs: 60,
    dataMegabytes: 39_097,
    backMs: 1_000,
    backMegabytes: 52.5,
  },
  video: {
    workload: "video over Samba",
    totalMs: 798_000,
    downtimeMs: 62,
    dataMegabytes: 39_072,
    backMs: 600,
    backMegabytes: 5.5,
  },
  diabolical: {
    workload: "Bonnie++",
    totalMs: 957_300,
    downtimeMs: 110,
    dataMegabytes: 40_934,
    backMs: 17_000,
    backMegabytes: 911.4,
  },
};
