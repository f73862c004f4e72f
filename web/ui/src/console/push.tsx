// How notifications reach people who do not have the chat open, what cannot work, and which gateways do not answer.
import { Banner, ErrorNote } from "../design";
import { t } from "../i18n";
import { date, duration, number, useLoaded } from "./load";

interface PushReport {
    phones: number;
    connections: number;
    topics: number;
    waiting: number;
    keep: number;
    foreign: boolean;
    troubles: { gateway: string; pushers: number; next: string; error?: string }[];
}

const ways = ["android", "store", "iphone", "browser"] as const;

export function PushPage() {
    const { value: p, error } = useLoaded<PushReport>("/api/console/push", 10);
    return (
        <>
            <h1>{t("console.push.title")}</h1>
            <ErrorNote>{error}</ErrorNote>
            {p?.troubles.map((x) => (
                <Banner key={x.gateway} icon="alert" kind="warn">
                    <b>{t("console.push.trouble", { gateway: x.gateway, count: x.pushers, when: date(x.next) })}</b> {x.error}
                </Banner>
            ))}
            {p && (
                <dl className="console-numbers" data-testid="push-numbers">
                    <Figure label={t("console.push.phones")} value={p.phones} />
                    <Figure label={t("console.push.connections")} value={p.connections} />
                    <Figure label={t("console.push.topics")} value={p.topics} />
                    <Figure label={t("console.push.waiting")} value={p.waiting} />
                </dl>
            )}
            <section className="hf-card hf-card--wide">
                <h2>{t("console.push.ways")}</h2>
                <dl className="console-facts" data-testid="push-ways">
                    {ways.map((w) => (
                        <div key={w} className="console-wide">
                            <dt>
                                <b>{t(`console.push.${w}`)}</b>
                            </dt>
                            <dd>{t(`console.push.${w}Text`)}</dd>
                        </div>
                    ))}
                </dl>
                {p && <p className="hf-hint">{t(p.foreign ? "console.push.rulesForeign" : "console.push.rules", { keep: duration(p.keep * 1000) })}</p>}
            </section>
        </>
    );
}

function Figure({ label, value }: { label: string; value: number }) {
    return (
        <div className="console-number">
            <dt>{label}</dt>
            <dd>{number(value)}</dd>
        </div>
    );
}
