// Times, sizes and names as people write them.
import { locale, t } from "../i18n";

const clock = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const weekday = new Intl.DateTimeFormat(locale, { weekday: "long" });
const shortDay = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short" });
const longDay = new Intl.DateTimeFormat(locale, { weekday: "long", day: "numeric", month: "long" });
const withYear = new Intl.DateTimeFormat(locale, { day: "numeric", month: "long", year: "numeric" });
const full = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "short", hourCycle: "h23" });

const midnight = (d: Date): number => new Date(d.getFullYear(), d.getMonth(), d.getDate()).getTime();
/** daysAgo counts calendar days, not times 24 hours. */
export function daysAgo(ts: number, now = Date.now()): number {
    return Math.round((midnight(new Date(now)) - midnight(new Date(ts))) / 86_400_000);
}

export const time = (ts: number): string => clock.format(ts);
export const fullTime = (ts: number): string => full.format(ts);

export function day(ts: number, now = Date.now()): string {
    const ago = daysAgo(ts, now);
    if (ago === 0) return t("time.today");
    if (ago === 1) return t("time.yesterday");
    if (ago > 1 && ago < 7) return weekday.format(ts);
    return new Date(ts).getFullYear() === new Date(now).getFullYear() ? longDay.format(ts) : withYear.format(ts);
}

/** brief is the time in a list: the clock today, then the weekday, then the date. */
export function brief(ts: number, now = Date.now()): string {
    const ago = daysAgo(ts, now);
    if (ago <= 0) return clock.format(ts);
    if (ago === 1) return t("time.yesterday");
    if (ago < 7) return weekday.format(ts);
    return new Date(ts).getFullYear() === new Date(now).getFullYear() ? shortDay.format(ts) : withYear.format(ts);
}

export function size(bytes: number): string {
    if (!Number.isFinite(bytes) || bytes < 0) return "";
    const units = ["byte", "kilobyte", "megabyte", "gigabyte"];
    let n = bytes;
    let i = 0;
    while (n >= 1000 && i < units.length - 1) {
        n /= 1000;
        i++;
    }
    return new Intl.NumberFormat(locale, { style: "unit", unit: units[i]!, unitDisplay: "short", maximumFractionDigits: n < 10 && i > 0 ? 1 : 0 }).format(n);
}

const lists = new Intl.ListFormat(locale, { type: "conjunction" });
/** names joins names; more than `most` become "and 3 more". */
export function names(all: string[], most = 3): string {
    if (all.length <= most) return lists.format(all);
    return lists.format([...all.slice(0, most - 1), t("names.more", { count: all.length - most + 1 })]);
}
