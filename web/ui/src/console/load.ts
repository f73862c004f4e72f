// What every page of the console does: load something now and on demand, and say numbers and times.
import { useCallback, useEffect, useState } from "react";
import { locale, t } from "../i18n";
import { ApiError, api, messageOf } from "../setup/api";

/** useLoaded keeps the old value while the new one is on its way. */
export function useLoaded<T>(path: string, everySeconds?: number): { value: T | undefined; error: string | undefined; reload: () => Promise<void> } {
    const [value, setValue] = useState<T>();
    const [error, setError] = useState<string>();
    const load = useCallback(
        async (background: boolean) => {
            try {
                setValue(await api<T>("GET", path, undefined, background));
                setError(undefined);
            } catch (e) {
                if (e instanceof ApiError && e.status === 401) location.reload();
                setError(messageOf(e));
            }
        },
        [path],
    );
    const reload = useCallback(() => load(false), [load]);
    useEffect(() => {
        void reload();
        if (!everySeconds) return;
        const timer = setInterval(() => document.visibilityState === "visible" && void load(true), everySeconds * 1000);
        return () => clearInterval(timer);
    }, [load, reload, everySeconds]);
    return { value, error, reload };
}

export const number = (n: number): string => new Intl.NumberFormat(locale).format(n);
export const date = (iso: string | undefined): string => (!iso || iso.startsWith("0001") ? t("console.never") : new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" }).format(new Date(iso)));
export function bytes(n: number): string {
    const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
    let i = 0;
    for (; n >= 1000 && i < units.length - 1; i++) n /= 1000;
    return new Intl.NumberFormat(locale, { style: "unit", unit: units[i]!, maximumFractionDigits: n < 10 && i > 0 ? 1 : 0 }).format(n);
}
export function duration(ms: number): string {
    const minutes = Math.max(0, Math.floor(ms / 60_000));
    if (minutes < 60) return t("console.minutes", { count: minutes });
    if (minutes < 48 * 60) return t("console.hours", { count: Math.floor(minutes / 60) });
    return t("console.days", { count: Math.floor(minutes / 1440) });
}
