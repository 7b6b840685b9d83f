/** How much of what one host says is told on, and how much nonsense one may bring, before it is cut off. */

/** All domains of a host may change at once, twice; after that so many in a second. */
const NEWS_BURST = 2048;
const NEWS_PER_SECOND = 50;
/** More in a minute is no accident. */
const OFFENCES_PER_MINUTE_MAX = 100;

type Account = { news: number; atMs: number; offences: number; minute: number };

export class NewsBudget {
  readonly #now: () => number;
  /** Of members only, and so bounded. */
  readonly #accounts = new Map<string, Account>();

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Whether one more word of `host` may be told on. */
  allows(host: string): boolean {
    const account = this.#accountOf(host);
    const now = this.#now();
    account.news = Math.min(NEWS_BURST, account.news + ((now - account.atMs) / 1000) * NEWS_PER_SECOND);
    account.atMs = now;
    if (account.news < 1) return false;
    account.news -= 1;
    return true;
  }

  /** Notes an offence of `host`; true when it is one too many. */
  offended(host: string): boolean {
    const account = this.#accountOf(host);
    const minute = Math.floor(this.#now() / 60_000);
    if (account.minute !== minute) {
      account.minute = minute;
      account.offences = 0;
    }
    account.offences += 1;
    return account.offences > OFFENCES_PER_MINUTE_MAX;
  }

  #accountOf(host: string): Account {
    const known = this.#accounts.get(host);
    if (known !== undefined) return known;
    const account = { news: NEWS_BURST, atMs: this.#now(), offences: 0, minute: 0 };
    this.#accounts.set(host, account);
    return account;
  }
}
