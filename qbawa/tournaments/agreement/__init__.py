"""How far judges agree with people, what sways them, and what their verdicts are therefore worth."""
