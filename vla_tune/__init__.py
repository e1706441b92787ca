"""Fine-tune vision-language-action models; what the robot gets is what was trained."""
