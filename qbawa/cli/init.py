"""`qbawa init`: a commented qbawa.yaml to start from."""

import click


@click.command("init")
@click.option("--force", is_flag=True, help="Replace an existing qbawa.yaml; the old one is kept as qbawa.yaml.bak.")
def command(force: bool) -> None:
    """Write a commented qbawa.yaml into the home.

    \b
    Example:
      qbawa init && $EDITOR .qbawa/qbawa.yaml
    """
    from qbawa.cli.sample import write_sample
    from qbawa.errors import InputError
    from qbawa.project import Home

    home = Home.find()
    if home.config.exists():
        if not force:
            raise InputError(f"{home.config} exists already. `qbawa init --force` replaces it and keeps a copy.")
        home.config.replace(home.config.with_suffix(".yaml.bak"))
    write_sample(home)
    click.echo(f"Wrote {home.config}. Next: edit it, then `qbawa plan`.")
