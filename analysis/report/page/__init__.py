"""One self-contained HTML page of text, tables and drawings: no network, no other file.

table = DataTable(frame=curves, caption="Minima", units={"loss_opt": "nats/token"})
section = Section(title="Minima", blocks=[Text(text="Three budgets."), table])
render(Page(title="Demo", sections=[section], commands=["make demo"], generated="today"))
"""
