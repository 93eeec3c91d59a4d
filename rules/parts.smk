# Jobs of many rows that params.yaml (resources) has made in parts, side by side: each draws its share into the scratch of the job, which
# takes up what lies there and makes the rest. DVC knows nothing of parts: to it the job is one command, whoever did the work.
DIVIDED = [(verb, {}) for verb in demands.DIVISIBLE]
DIVIDED += [("attack", {"attack": name}) for name in SETTINGS["attacks"]]

for verb, names in DIVIDED:
    if demands.parts(SETTINGS, verb, names) > 1:

        rule:
            name:
                f"{demands.rule(verb, names)}_part"
            input:
                needs(verb, **names),
            output:
                temp(touch(marker(verb, "{k}of{n}", **names))),
            log:
                f"logs/{demands.rule(verb, names)}_part/{pattern(verb, **names).name}-{{k}}of{{n}}.log",
            resources:
                **asks(verb, **names),
            params:
                run=command(verb, **names),
            shell:
                "{params.run} --part {wildcards.k}/{wildcards.n} > {log} 2>&1"
